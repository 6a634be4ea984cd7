#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Installs, by Debian package name, what is missing to build and run Tandem.
# usage: tools/install-deps.sh build|demo|check      (check includes demo, demo includes build)
set -euo pipefail

build=(gcc libc6-dev meson ninja-build pkg-config nbdkit nbdkit-plugin-dev libnbd-dev liburing-dev
       libgnutls28-dev libisal-dev liblz4-dev libzstd-dev libxxhash-dev libjansson-dev libinih-dev libsystemd-dev libcmocka-dev mandoc)
demo=(qemu-system-x86 qemu-utils e2fsprogs e2fsck-static busybox-static cpio xz-utils kmod jq
      libnbd-bin procps util-linux)
check=(fio python3 python3-libnbd qemu-system-common clang clang-format libclang-rt-14-dev gnutls-bin iproute2
       bash-completion codespell ovmf socat systemd xfsprogs btrfs-progs)

case "${1-}" in
build) want=("${build[@]}") ;;
demo) want=("${build[@]}" "${demo[@]}") ;;
check) want=("${build[@]}" "${demo[@]}" "${check[@]}") ;;
*) echo "usage: $0 build|demo|check" >&2; exit 2 ;;
esac

missing=()
for p in "${want[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "$0: root or sudo is needed to install: ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
echo "installing: ${missing[*]}"
"${sudo[@]}" apt-get -qq update
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
  "${missing[@]}" >/dev/null
