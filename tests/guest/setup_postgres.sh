#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Makes the disk of a guest that runs PostgreSQL under pgbench: an ext4 file system with Debian's own
# postgresql-15, unpacked (not installed) into it, an initialised cluster, and postgres_init as its first
# program. It boots with the kernel and the initramfs of setup.sh (tandem.mode=root). Does nothing when all
# is up to date. Needs root, or sudo without a password: the cluster is made in a chroot.
# usage: tests/guest/setup_postgres.sh [CACHE_DIR]    (default: $TANDEM_GUEST_CACHE, else build/guest)
# makes: CACHE_DIR/postgres.img
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${TANDEM_GUEST_CACHE:-$here/../../build/guest}}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
size=768M
# What the packages depend on and a server without just-in-time compilation never loads.
unused='libllvm14_ libz3-4_ perl perl-base_ perl-modules libperl5.36_ libjson-perl_ locales_ libc-l10n_ openssl_
  dpkg_ tar_ passwd_ adduser_ debconf_ postgresql-common_ postgresql-client-common_ ssl-cert_ ucf_'

fail() { echo "$0: $*" >&2; exit 1; }
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || fail "root or sudo is needed to make the PostgreSQL guest"
  exec sudo -n "$0" "$cache"
fi
exec 9>"$cache/postgres.lock"
flock 9
[ ! -s "$cache/postgres.img" ] || [ "$0" -nt "$cache/postgres.img" ] || [ "$here/postgres_init" -nt "$cache/postgres.img" ] || exit 0
echo "test guest: making the PostgreSQL disk"
PATH=$PATH:/usr/sbin:/sbin
tmp=$cache/postgres.tmp
root=$tmp/root
trap 'rm -rf "$tmp"' EXIT
rm -rf "$tmp"
mkdir -p "$root" "$tmp/archives/partial"

# All that postgresql-15 needs, as if nothing were installed.
: >"$tmp/status"
get() {
  apt-get -qq -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Dir::State::status="$tmp/status" \
    -o Dir::Cache::archives="$tmp/archives/" -o APT::Install-Recommends=0 -y -d \
    install postgresql-15 postgresql-client-15 libc-bin >"$tmp/apt.log" 2>&1
}
get || { apt-get -qq update && get; } || { cat "$tmp/apt.log" >&2; fail "cannot download postgresql-15 and what it needs"; }
for deb in "$tmp"/archives/*.deb; do
  for name in $unused; do
    case ${deb##*/} in "$name"*) continue 2 ;; esac
  done
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
done
mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,etc,root,var/run/postgresql}
install -m 755 "$(command -v busybox)" "$root/bin/busybox"
for name in sh mount umount mkdir cat sleep sync poweroff uname su grep sed seq date kill ps head tail tr stty; do
  [ -e "$root/bin/$name" ] || ln -s busybox "$root/bin/$name"
done
echo 'root:x:0:0:root:/root:/bin/sh
postgres:x:70:70:PostgreSQL:/var/lib/postgresql:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:
postgres:x:70:' >"$root/etc/group"
install -m 755 "$here/postgres_init" "$root/postgres_init"
ldconfig -r "$root"
mkdir -p "$root/var/lib/postgresql"
chown -R 70:70 "$root/var/lib/postgresql" "$root/var/run/postgresql"
chmod 1777 "$root/tmp"

# The cluster; data checksums let pg_amcheck and the server see a torn page.
bin=/usr/lib/postgresql/15/bin
mknod -m 666 "$root/dev/null" c 1 3
env -i PATH=$bin:/bin:/usr/sbin:/sbin:/usr/bin HOME=/var/lib/postgresql LC_ALL=C chroot --userspec=70:70 "$root" \
  $bin/initdb -D /var/lib/postgresql/data --data-checksums --no-sync -A trust -E UTF8 --locale=C >"$tmp/initdb.log" 2>&1 ||
  { cat "$tmp/initdb.log" >&2; fail "initdb failed"; }
cat >>"$root/var/lib/postgresql/data/postgresql.conf" <<'C'
listen_addresses = ''
unix_socket_directories = '/tmp'
shared_buffers = 24MB
max_connections = 20
jit = off
checkpoint_timeout = 30s
log_destination = 'stderr'
C
truncate -s "$size" "$tmp/postgres.img"
mkfs.ext4 -q -F -d "$root" "$tmp/postgres.img"
mv "$tmp/postgres.img" "$cache/postgres.img"
