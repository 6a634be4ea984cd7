#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Makes what the test guest boots from: Debian's own kernel for virtual machines, and an initramfs of
# busybox, e2fsck, the virtio modules, recorder.c, agree.c, work.c and init. Does nothing when all is up to date. The kernel
# is only unpacked, never installed; remove the directory to get a newer one.
# usage: tests/guest/setup.sh [CACHE_DIR]    (default: $TANDEM_GUEST_CACHE, else build/guest)
# makes: CACHE_DIR/vmlinuz and CACHE_DIR/initrd.img
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${TANDEM_GUEST_CACHE:-$here/../../build/guest}}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
meta=linux-image-cloud-amd64

fail() { echo "$0: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || fail "$1 is missing: tools/install-deps.sh demo installs it"; }
[ "$(uname -m)" = x86_64 ] || fail "the test guest is for x86_64 hosts"
exec 9>"$cache/lock"
flock 9

# The package of the real kernel that the meta package stands for, e.g. linux-image-6.1.0-56-cloud-amd64.
kernel_package() {
  apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*-cloud-amd64\)$/\1/p' | head -n 1
}

# The newest package lists; as an ordinary user without sudo the ones that are there have to do.
refresh_lists() {
  if [ "$(id -u)" -eq 0 ]; then apt-get -qq update
  elif command -v sudo >/dev/null; then sudo -n apt-get -qq update
  fi || true
}

get_kernel() {
  local tmp=$cache/tmp package version sandbox=()
  [ "$(id -u)" -ne 0 ] || sandbox=(-o APT::Sandbox::User=root)
  rm -rf "$tmp" "$cache/modules" "$cache/vmlinuz"
  mkdir -p "$tmp"
  package=$(kernel_package)
  if [ -z "$package" ] || ! (cd "$tmp" && apt-get "${sandbox[@]}" -qq download "$package") 2>/dev/null; then
    refresh_lists
    package=$(kernel_package)
    [ -n "$package" ] || fail "apt does not know $meta: is a Debian source configured?"
    (cd "$tmp" && apt-get "${sandbox[@]}" -qq download "$package") || fail "cannot download $package"
  fi
  dpkg-deb -x "$tmp"/linux-image-*.deb "$tmp/root"
  version=${package#linux-image-}
  depmod -b "$tmp/root" "$version"
  mkdir "$tmp/modules"
  # In the order of loading; what the kernel has built in is no "insmod" line.
  for module in virtio_pci virtio_blk ext4 virtio_scsi sd_mod; do
    modprobe -d "$tmp/root" -S "$version" -D "$module"
  done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r path; do
    cp "$path" "$tmp/modules/"
    echo "${path##*/}" >>"$tmp/modules/order"
  done
  touch "$tmp/modules/order"
  mv "$tmp/modules" "$cache/modules"
  echo "$version" >"$cache/version"
  mv "$tmp/root/boot/vmlinuz-$version" "$cache/vmlinuz"
  rm -rf "$tmp"
}

get_initrd() {
  local root=$cache/root
  rm -rf "$root"
  mkdir -p "$root/bin" "$root/modules"
  gcc -static -O2 -Wall -Wextra -Werror -o "$root/bin/recorder" "$here/recorder.c"
  gcc -static -O2 -Wall -Wextra -Werror -o "$root/bin/agree" "$here/agree.c"
  gcc -static -O2 -Wall -Wextra -Werror -o "$root/bin/work" "$here/work.c"
  cp "$busybox" "$root/bin/busybox"
  for name in sh mount umount mkdir cat insmod sleep sync poweroff uname switch_root; do
    ln -s busybox "$root/bin/$name"
  done
  cp "$e2fsck" "$root/bin/e2fsck"
  cp "$cache/modules"/* "$root/modules/"
  install -m 755 "$here/init" "$root/init"
  (cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null -o -H newc -R 0:0) >"$cache/initrd.tmp"
  mv "$cache/initrd.tmp" "$cache/initrd.img"
  rm -rf "$root"
}

for tool in busybox gcc cpio depmod modprobe dpkg-deb apt-get e2fsck.static; do need "$tool"; done
PATH=$PATH:/usr/sbin:/sbin
busybox=$(command -v busybox)
e2fsck=$(command -v e2fsck.static)
# an older cache has fewer modules
if [ ! -s "$cache/vmlinuz" ] || ! grep -qx 'sd_mod\.ko.*' "$cache/modules/order" 2>/dev/null; then
  echo "test guest: getting the kernel of $meta"
  get_kernel
  rm -f "$cache/initrd.img"
fi
for source in "$here/recorder.c" "$here/agree.c" "$here/work.c" "$here/init" "$here/setup.sh" "$busybox" "$e2fsck"; do
  if [ ! -s "$cache/initrd.img" ] || [ "$source" -nt "$cache/initrd.img" ]; then
    echo "test guest: making the initramfs for Linux $(cat "$cache/version")"
    get_initrd
    break
  fi
done
