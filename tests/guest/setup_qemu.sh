#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Fetches another QEMU than the installed one, Debian's backport (10.0 for Debian 12), and unpacks it; nothing is installed.
# Prints what TANDEM_TEST_QEMU must be for the guest tests to use it. Does nothing where it is there already. Exit code 77, with
# the reason as the last line: this system has no such package, or cannot reach its archive.
# usage: tests/guest/setup_qemu.sh [CACHE_DIR]    (default: build/qemu)
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-$here/../../build/qemu}
packages=(qemu-system-x86 qemu-system-common qemu-system-data seabios)
uri=${TANDEM_TEST_BACKPORTS:-http://deb.debian.org/debian}

skip() { echo "$*"; exit 77; }
# shellcheck source=/dev/null
. /etc/os-release
[ "${ID:-}" = debian ] && [ -n "${VERSION_CODENAME:-}" ] || skip "Debian's backports are for Debian, this is ${PRETTY_NAME:-another system}"
[ "$(dpkg --print-architecture)" = amd64 ] || skip "the packages are those for amd64"
mkdir -p "$cache" || exit 1
cache=$(cd "$cache" && pwd)
exec 9>"$cache/lock"
flock 9

if [ ! -e "$cache/made" ]; then
  rm -rf "$cache/apt" "$cache/root"
  mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial" "$cache/root"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $VERSION_CODENAME-backports main" >"$cache/apt/sources.list"
  # An archive, lists and a cache of its own: nothing of the system's changes.
  apt=(apt-get -qq -o "Dir::Etc::SourceList=$cache/apt/sources.list" -o Dir::Etc::SourceParts=/nonexistent -o Debug::NoLocking=1
    -o "Dir::State::Lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt" -o APT::Sandbox::User= -o Acquire::Retries=1
    -o Acquire::http::Timeout=20 -o APT::Update::Error-Mode=any)
  "${apt[@]}" update >"$cache/apt/log" 2>&1 || skip "the archive $uri $VERSION_CODENAME-backports cannot be reached: $(tail -n 1 "$cache/apt/log")"
  (cd "$cache/apt" && "${apt[@]}" download "${packages[@]}") >>"$cache/apt/log" 2>&1 ||
    skip "the packages cannot be fetched: $(tail -n 1 "$cache/apt/log")"
  for deb in "$cache"/apt/*.deb; do
    dpkg -x "$deb" "$cache/root" || exit 1
  done
  missing=$(ldd "$cache/root/usr/bin/qemu-system-x86_64" | sed -n 's/^\s*\(.*\) => not found/\1/p' | tr '\n' ' ')
  [ -z "$missing" ] || skip "libraries that it needs are not installed: $missing"
  rm -rf "$cache/apt"
  : >"$cache/made"
fi
# Directories of firmware are looked through in this order; the last is that of the installed one (network cards' ROMs).
echo "$cache/root/usr/bin/qemu-system-x86_64 -L $cache/root/usr/share/qemu -L $cache/root/usr/share/seabios -L /usr/lib/ipxe/qemu"
