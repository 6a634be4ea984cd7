#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A layer of src/ includes only itself and layers below it; core/ makes no system calls (it includes
# no header that declares them).
set -u
cd "$(dirname "$0")/../../src" || exit 1
order=(util core conf replicator guest cluster cli)
bad=0
below=()
for layer in "${order[@]}"; do
  below+=("$layer")
  [ -d "$layer" ] || continue
  allowed=$(IFS='|'; echo "${below[*]}")
  if grep -rnE '^#include "' "$layer" --include='*.[ch]' | grep -vE "#include \"($allowed)/"; then
    echo "layer $layer includes what is above it, or not by path" >&2
    bad=1
  fi
done
if grep -rnE '^#include <(unistd|fcntl|pthread|time|sys/(mman|socket|stat|uio|ioctl|time)|poll|signal)\.h>' core --include='*.[ch]' 2>/dev/null; then
  echo "core/ includes a header of system calls" >&2
  bad=1
fi
exit $bad
