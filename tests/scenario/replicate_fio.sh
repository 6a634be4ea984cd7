#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fio writes and verifies through the primary; at a cut the secondary equals it, bit by bit, on every disk;
# refused promotion, read-only export, promotion after SIGKILL, orderly ends.  One disk is a raw file, the
# other a qcow2 image behind qemu-nbd on the secondary.
# usage: tests/scenario/replicate_fio.sh BUILD_DIR
set -u
tandem=$(realpath "$1/tandem")
dir=$(mktemp -d "${TMPDIR:-/tmp}/tandem.XXXXXX")
pids=()
cleanup() {
  kill -TERM "${pids[@]}" 2>/dev/null
  for p in "${pids[@]}"; do wait "$p" 2>/dev/null; done
  rm -rf "$dir"
}
trap cleanup EXIT
fail() { echo "not ok - $*"; tail -n 20 "$dir"/*.log; exit 1; }
ok() { echo "ok - $*"; }
# until_state NODE STATE: at most 20 seconds
until_state() {
  for _ in $(seq 200); do
    # a node that does not run is "stopped" too, but with an exit code
    json=$("$tandem" status "$conf" --node "$1" --json 2>/dev/null) && [ "$(jq -r .state <<<"$json")" = "$2" ] && return
    sleep 0.1
  done
  fail "node $1 did not become $2"
}
uri() { echo "nbd+unix:///$2?socket=$dir/$1/run/nbd.sock"; }

conf=$dir/g.conf
mkdir "$dir/alpha" "$dir/beta"
truncate -s 64M "$dir/alpha/vda.img" "$dir/alpha/vdb.img" "$dir/beta/vda.img"
qemu-img create -q -f qcow2 "$dir/beta/vdb.qcow2" 64M
qemu-nbd -t -k "$dir/q.sock" -f qcow2 --cache=writeback --discard=unmap --detect-zeroes=off "$dir/beta/vdb.qcow2" 2>"$dir/qemu-nbd.log" &
pids+=($!)
for _ in $(seq 100); do [ -S "$dir/q.sock" ] && break; sleep 0.05; done
port=$((20000 + RANDOM % 10000))
cat >"$conf" <<C
[group]
name = g
epoch-ms = 20
journal-size = 256M
[node alpha]
link = 127.0.0.1:$port
state-dir = $dir/alpha/state
run-dir = $dir/alpha/run
disk.vda = $dir/alpha/vda.img
disk.vdb = $dir/alpha/vdb.img
[node beta]
link = 127.0.0.1:$((port + 1))
state-dir = $dir/beta/state
run-dir = $dir/beta/run
disk.vda = $dir/beta/vda.img
disk.vdb = nbd+unix:///?socket=$dir/q.sock
C
for n in alpha beta; do "$tandem" init "$conf" --node $n || fail "init on $n"; done
"$tandem" init "$conf" --node beta 2>/dev/null
[ $? -eq 4 ] || fail "a second init is not refused with exit code 4"
"$tandem" secondary "$conf" --node beta >"$dir/beta.log" 2>&1 &
pids+=($!)
until_state beta stopped
"$tandem" promote "$conf" --node beta 2>"$dir/promote.err"
[ $? -eq 4 ] && grep -q "no committed state" "$dir/promote.err" || fail "promotion without a committed state"
ok "promotion is refused before the full sync, with the reason"
"$tandem" primary "$conf" --node alpha >"$dir/alpha.log" 2>&1 &
alpha=$!
pids+=($alpha)
until_state alpha protected
"$tandem" promote "$conf" --node beta 2>"$dir/promote.err"
[ $? -eq 4 ] && grep -q "alive" "$dir/promote.err" || fail "promotion beside a living primary"
ok "promotion is refused while the primary lives, with the reason"

for disk in vda vdb; do
  fio --name=$disk --ioengine=nbd --uri="$(uri alpha $disk)" --rw=randrw --bsrange=512-64k --iodepth=16 --size=60M \
    --io_size=64M --verify=crc32c --do_verify=1 --verify_state_save=0 --output="$dir/fio-$disk.log" &
  fio_pids+=($!)
done
for p in "${fio_pids[@]}"; do wait "$p" || fail "fio found an error"; done
ok "fio verifies what it wrote on both disks at once"
"$tandem" cut "$conf" --node alpha --wait || fail "cut"
for disk in vda vdb; do
  qemu-img compare -q -f raw -F raw "$(uri alpha $disk)" "$(uri beta $disk)" || fail "$disk differs at the cut"
done
ok "at a cut, the secondary's read-only exports equal the primary's disks"
nbdinfo --is readonly "$(uri beta vda)" || fail "the secondary's export is writable"
ok "the secondary's export is read-only"

kill -KILL $alpha
wait $alpha 2>/dev/null
"$tandem" promote "$conf" --node beta || fail "promote"
fio --name=after --ioengine=nbd --uri="$(uri beta vdb)" --rw=randwrite --bs=4k --iodepth=4 --size=16M \
  --verify=crc32c --do_verify=1 --verify_state_save=0 --output="$dir/fio-after.log" || fail "fio on the promoted node"
ok "the promoted node is written to"
"$tandem" secondary "$conf" --node alpha >"$dir/alpha2.log" 2>&1 &
pids+=($!)
until_state beta protected
"$tandem" cut "$conf" --node beta --wait || fail "cut on the promoted node"
qemu-img compare -q -f raw -F raw "$(uri alpha vdb)" "$(uri beta vdb)" || fail "the old primary differs"
ok "the old primary comes back as the secondary, and is equal at a cut"
"$tandem" shutdown "$conf" --node beta || fail "shutdown"
until_state alpha standby
ok "an orderly end"
"$tandem" shutdown "$conf" --node alpha || fail "shutdown of the secondary"
# for tests/decode/recorded.sh
[ -z "${TANDEM_RECORD:-}" ] || for n in alpha beta; do cp "$dir/$n/state/journal" "$TANDEM_RECORD/$n.journal"; done
