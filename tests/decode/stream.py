# SPDX-License-Identifier: LGPL-2.1-or-later
"""One direction of one connection, and both together, against docs/stream.md ("Session")."""
import records
from records import (ACK_COMMITTED, ACK_RECEIVED, ACK_SYNCED, CHECK, Cut, DIFFER, DIGEST, FREEZE, FROZEN, GOODBYE, GROW, GROWN, HEARTBEAT, HELLO,
                     MAP, MAP_END, PRIMARY, RULES, SEAL, PAGES, SECONDARY, STATE, SYNC_BEGIN, SYNC_END, THAW, Violation)


class Stream:
    """Takes the records of one direction in order and refuses what must not follow."""

    def __init__(self):
        self.hello = None
        self.ended = False
        self.count = 0
        self.bytes = 0
        self.by_type = {}
        # of a primary
        self.closed = 0  # newest epoch that a SEAL or SYNC_END closed
        self.open = {}  # epoch -> [changes, bytes]
        self.sync = None  # epoch of the sync that runs
        self.kind = None  # offset of SYNC_BEGIN: 0 in place, 1 staged, 2 into clones
        self.changes = 0
        self.change_bytes = 0
        self.closed_counts = [0, 0]
        self.guest = False  # there are volumes of kind memory and state
        self.sync_counts = [0, 0]  # since SYNC_BEGIN
        self.blob = 0  # bytes of the state blob
        self.stated = set()  # open epochs that have a STATE
        self.checked = (0, 0, 0)  # epoch, volume and end of the newest CHECK
        self.disk_epoch = 0  # newest epoch of a disk's change
        self.frozen = 0  # epoch of a FREEZE without its THAW
        self.freezes = []  # (epoch) of FREEZE, or (epoch, kept) of FROZEN
        self.ended_epochs = set()  # closed, also those that were merged into the next
        self.totals = {}  # closed epoch -> (changes, bytes) of all epochs up to it
        # of a secondary
        self.received = (0, 0, 0)
        self.committed = (0, 0, 0)
        self.acks = []  # (record) for check_pair
        self.maps_ended = False
        self.map_at = (False, -1, 0)  # HELD, volume and end of the last MAP
        self.held = 0  # length of MAP_END
        self.synced = 0
        self.begun = False  # a SYNC_BEGIN came
        self.goes_on = False  # ... of kind 2, or a DIGEST with HELD
        self.grows = []  # (volume, size) of GROW or GROWN, in order
        self.digests = []  # (volume, offset, length, block) of DIGEST or DIFFER, in order
        self.of_frozen = []  # of each, whether it is a DIGEST with FROZEN

    def _first(self, rec):
        if rec.type == GOODBYE:
            self._goodbye(rec)  # a secondary that refuses
        elif rec.type != HELLO:
            raise Violation(rec.position, "the first record is no HELLO")

    def _goodbye(self, rec):
        if not 1 <= rec.offset <= 7:
            raise Violation(rec.position, "GOODBYE for reason %d" % rec.offset)
        try:
            rec.payload.decode("utf-8")
        except UnicodeDecodeError:
            raise Violation(rec.position, "the text of a GOODBYE is not UTF-8") from None
        self.ended = True

    def _size(self, volume):
        """That changes may reach: of the HELLO, and of what it grew to."""
        return max([self.hello.volumes[volume][1]] + [size for v, size in self.grows if v == volume])

    def _grow(self, rec):
        if rec.volume >= len(self.hello.volumes) or self.hello.volumes[rec.volume][3] != records.KIND_DISK:
            raise Violation(rec.position, "no disk %d" % rec.volume)
        if rec.type == GROW and (self.sync is not None or not self.begun):
            raise Violation(rec.position, "GROW before the end of the sync")
        if rec.offset or rec.length < self._size(rec.volume):
            raise Violation(rec.position, "%s to %d bytes" % (RULES[rec.type].name, rec.length))
        self.grows.append((rec.volume, rec.length))

    def _change(self, rec):
        if rec.volume >= len(self.hello.volumes):
            raise Violation(rec.position, "no volume %d" % rec.volume)
        size, kind = self._size(rec.volume), self.hello.volumes[rec.volume][3]
        if kind != {PAGES: records.KIND_MEMORY, STATE: records.KIND_STATE}.get(
                rec.type, records.KIND_DISK):
            raise Violation(rec.position, "%s for a volume of kind %d" %
                            (RULES[rec.type].name, kind))
        if rec.type == PAGES:
            ends = [run.offset + run.length for run in rec.runs]
        else:
            ends = [rec.offset + rec.length]
        if max(ends) > size:
            raise Violation(rec.position, "change beyond the end of the volume")
        if rec.is_memory:
            self._memory(rec)
        elif self.guest:
            if rec.epoch < self.disk_epoch:
                raise Violation(rec.position, "change of a disk of epoch %d after %d" %
                                (rec.epoch, self.disk_epoch))
            self.disk_epoch = rec.epoch
        if self.sync is not None and rec.epoch != self.sync:
            raise Violation(rec.position, "change of epoch %d within the sync of epoch %d" %
                            (rec.epoch, self.sync))
        if rec.flags & records.FLAG_SYNC and self.sync is None:
            raise Violation(rec.position, "data of a sync outside of one")
        totals = self.open.setdefault(rec.epoch, [0, 0])
        totals[0] += 1
        totals[1] += rec.length
        self.sync_counts = [self.sync_counts[0] + 1, self.sync_counts[1] + rec.length]
        self.changes += 1
        self.change_bytes += rec.length

    def _memory(self, rec):
        """A PAGES or STATE: behind the SEAL of the epoch before it."""
        lower = [e for e in self.open if e < rec.epoch]
        if lower:
            raise Violation(rec.position, "memory of epoch %d before the seal of %d" %
                            (rec.epoch, min(lower)))
        if rec.type == STATE:
            if rec.offset > self.blob:
                raise Violation(rec.position, "STATE at %d, the blob has %d bytes" %
                                (rec.offset, self.blob))
            self.blob = rec.offset + rec.length
            self.stated.add(rec.epoch)

    def _sync_end(self, rec):
        if self.sync != rec.epoch:
            raise Violation(rec.position, "SYNC_END without its SYNC_BEGIN")
        if self.guest:  # of the disks only: SEAL closes the epoch
            if (rec.offset, rec.length) != tuple(self.sync_counts):
                raise Violation(rec.position, "SYNC_END of %d changes and %d bytes, there were %d "
                                "and %d" % (rec.offset, rec.length, *self.sync_counts))
            self.disk_epoch = rec.epoch + 1
            self.open.setdefault(rec.epoch, [0, 0])
        else:
            self._close(rec)
        self.sync = None

    def _seal(self, rec):
        if self.sync is not None:
            raise Violation(rec.position, "SEAL within a sync")
        merge = rec.flags & records.FLAG_MERGE
        if merge and (not self.guest or self.closed == 0):
            raise Violation(rec.position, "SEAL with MERGE where none can be")
        if self.guest and not merge and rec.epoch not in self.stated:
            raise Violation(rec.position, "SEAL of a checkpoint without STATE")
        self._close(rec)

    def _close(self, rec):
        lower = [e for e in self.open if e < rec.epoch]
        if lower:
            raise Violation(rec.position, "epoch %d closes before %d" % (rec.epoch, min(lower)))
        have = tuple(self.open.pop(rec.epoch, (0, 0)))
        if (rec.offset, rec.length) != have:
            raise Violation(rec.position, "%s of %d changes and %d bytes, there were %d and %d" %
                            ((RULES[rec.type].name, rec.offset, rec.length) + have))
        self.closed = rec.epoch
        self.closed_counts = [a + b for a, b in zip(self.closed_counts, have)]
        self.ended_epochs.add(rec.epoch)
        if not rec.flags & records.FLAG_MERGE:
            self.totals[rec.epoch] = tuple(self.closed_counts)

    def _primary(self, rec):
        if not rec.known:
            return
        if rec.epoch and rec.epoch <= max(self.closed, self.hello.committed):
            raise Violation(rec.position, "epoch %d is closed" % rec.epoch)
        self.guest = any(v[3] == records.KIND_MEMORY for v in self.hello.volumes)
        if rec.is_change:
            self._change(rec)
        elif rec.type == DIGEST:
            self._digest(rec)
        elif rec.type == GROW:
            self._grow(rec)
        elif rec.type == SYNC_BEGIN:
            if rec.offset > 3:
                raise Violation(rec.position, "SYNC_BEGIN of kind %d" % rec.offset)
            if self.sync is not None:
                raise Violation(rec.position, "SYNC_BEGIN within a sync")
            if self.open:
                raise Violation(rec.position, "SYNC_BEGIN with an open epoch")
            self.sync = rec.epoch
            self.kind = rec.offset
            self.begun = True
            self.goes_on |= rec.offset == 3
            self.sync_counts = [0, 0]
        elif rec.type == SYNC_END:
            self._sync_end(rec)
        elif rec.type == SEAL:
            self._seal(rec)
        elif rec.type == CHECK:
            self._digests(rec)
        elif rec.type in (FREEZE, THAW):
            self._freeze(rec)

    def _freeze(self, rec):
        """The disks of an epoch that is cut and not sealed, one at a time."""
        if rec.type == THAW:
            self.frozen = 0
            return
        if not self.guest or self.frozen or self.sync is not None or self.closed == 0:
            raise Violation(rec.position, "FREEZE where none can be")
        self.frozen = rec.epoch
        self.freezes.append(rec.epoch)

    def _digests(self, rec):
        """A CHECK: with memory or state of its epoch before it, and none of a lower epoch open."""
        if rec.volume >= len(self.hello.volumes) or \
                self.hello.volumes[rec.volume][3] == records.KIND_DISK:
            raise Violation(rec.position, "CHECK of volume %d" % rec.volume)
        if rec.offset + rec.length > self.hello.volumes[rec.volume][1]:
            raise Violation(rec.position, "CHECK beyond the end of the volume")
        if rec.epoch not in self.open or min(self.open) < rec.epoch:
            raise Violation(rec.position, "CHECK of epoch %d, which has no memory yet" % rec.epoch)
        at = (rec.epoch, rec.volume, rec.offset)
        if at < self.checked:
            raise Violation(rec.position, "CHECK out of order")
        self.checked = (rec.epoch, rec.volume, rec.offset + rec.length)

    def _map(self, rec):
        """A piece of a dirty map: behind the one before it, with at least one block in it."""
        if self.maps_ended:
            raise Violation(rec.position, "%s behind MAP_END" % RULES[rec.type].name)
        if rec.type == MAP_END:
            self.maps_ended = True
            self.held = rec.length
            if bool(rec.length) != self.map_at[0]:
                raise Violation(rec.position, "MAP_END with %d bytes held %s a MAP of them" % (rec.length, "without" if rec.length else "behind"))
            return
        if rec.volume >= len(self.hello.volumes):
            raise Violation(rec.position, "no volume %d" % rec.volume)
        size, kind = self.hello.volumes[rec.volume][1], self.hello.volumes[rec.volume][3]
        if kind != records.KIND_DISK:
            raise Violation(rec.position, "MAP of a volume of kind %d" % kind)
        held = bool(rec.flags & records.FLAG_HELD)
        if (held, rec.volume, rec.offset) < self.map_at:
            raise Violation(rec.position, "MAP goes back")
        words = (len(rec.payload) - 8) // 8
        if len(rec.payload) % 8 or words < 1:
            raise Violation(rec.position, "MAP with %d bytes" % len(rec.payload))
        block, reserved = int.from_bytes(rec.payload[:4], "little"), rec.payload[4:8]
        if not 4096 <= block <= 1 << 20 or block & (block - 1) or any(reserved):
            raise Violation(rec.position, "MAP with blocks of %d bytes" % block)
        if rec.offset % (64 * block) or \
                rec.length != min(words * 64 * block, size - rec.offset):
            raise Violation(rec.position, "MAP of %d bytes at %d" % (rec.length, rec.offset))
        bits = int.from_bytes(rec.payload[8:], "little")
        if not bits or (bits.bit_length() - 1) * block >= rec.length:
            raise Violation(rec.position, "MAP without a block, or with one behind its end")
        self.map_at = (held, rec.volume, rec.offset + rec.length)

    def _digest(self, rec):
        """A DIGEST or its DIFFER: at most 64 whole blocks, but for the volume's end."""
        name = RULES[rec.type].name
        if rec.type == DIGEST and bool(rec.epoch) != self.begun:
            raise Violation(rec.position, "%s %s SYNC_BEGIN" % (name, "before" if rec.epoch else "without an epoch behind"))
        if rec.epoch and self.sync is not None:
            raise Violation(rec.position, "%s within a sync" % name)
        if rec.volume >= len(self.hello.volumes) or \
                self.hello.volumes[rec.volume][3] != records.KIND_DISK:
            raise Violation(rec.position, "%s for no disk" % name)
        block, reserved = int.from_bytes(rec.payload[:4], "little"), rec.payload[4:8]
        if not 4096 <= block <= 1 << 20 or block & (block - 1) or any(reserved):
            raise Violation(rec.position, "%s with blocks of %d bytes" % (name, block))
        count = -(-rec.length // block)
        size = self._size(rec.volume)
        if rec.offset % block or count > 64 or rec.offset + rec.length > size:
            raise Violation(rec.position, "%s of %d bytes at %d" % (name, rec.length, rec.offset))
        if len(rec.payload) != 8 + (16 * count if rec.type == DIGEST else 8):
            raise Violation(rec.position, "%s of %d blocks with %d bytes" % (name, count, len(rec.payload)))
        if rec.type == DIFFER and int.from_bytes(rec.payload[8:], "little") >> count:
            raise Violation(rec.position, "DIFFER for blocks behind its end")
        frozen = bool(rec.flags & records.FLAG_FROZEN)
        if frozen and (not rec.epoch or self.frozen not in self.totals):
            raise Violation(rec.position, "DIGEST of frozen disks, and none are")
        if rec.flags & records.FLAG_HELD and (rec.epoch or frozen):
            raise Violation(rec.position, "DIGEST of what is held behind SYNC_BEGIN")
        self.goes_on |= bool(rec.flags & records.FLAG_HELD)
        self.digests.append((rec.volume, rec.offset, rec.length, block))
        self.of_frozen.append(frozen)

    def _secondary(self, rec):
        if rec.type in (MAP, MAP_END):
            self._map(rec)
            return
        if rec.type != HEARTBEAT and not self.maps_ended:
            raise Violation(rec.position, "%s before MAP_END" % RULES[rec.type].name)
        if rec.type == DIFFER:
            self._digest(rec)
            return
        if rec.type == GROWN:
            self._grow(rec)
            return
        if rec.type == FROZEN:
            if rec.offset > 1:
                raise Violation(rec.position, "FROZEN of kind %d" % rec.offset)
            self.freezes.append((rec.epoch, rec.offset))
            return
        if rec.type == ACK_SYNCED:
            if rec.offset < self.synced:
                raise Violation(rec.position, "ACK_SYNCED goes back")
            self.synced = rec.offset
            self.acks.append(rec)
            return
        counts = (rec.offset, rec.length)
        if rec.type == ACK_RECEIVED:
            if any(new < old for new, old in zip((rec.epoch,) + counts, self.received)):
                raise Violation(rec.position, "ACK_RECEIVED goes back")
            self.received = (rec.epoch,) + counts
            self.acks.append(rec)
        elif rec.type == ACK_COMMITTED:
            if rec.epoch <= self.hello.committed:
                raise Violation(rec.position, "ACK_COMMITTED of an epoch before the connection")
            if any(new < old for new, old in zip((rec.epoch,) + counts, self.committed)):
                raise Violation(rec.position, "ACK_COMMITTED goes back")
            self.committed = (rec.epoch,) + counts
            self.acks.append(rec)

    def take(self, rec):
        """The next record, already checked by itself."""
        if self.ended:
            raise Violation(rec.position, "a record after the GOODBYE")
        self.count += 1
        self.bytes += rec.size
        name = RULES[rec.type].name if rec.known else "unknown"
        self.by_type[name] = self.by_type.get(name, 0) + 1
        if self.count == 1:
            self._first(rec)
            return
        if rec.type == HELLO:
            raise Violation(rec.position, "a second HELLO")
        if rec.type == GOODBYE:
            self._goodbye(rec)
        elif self.hello.role == PRIMARY:
            self._primary(rec)
        else:
            self._secondary(rec)

    def summary(self):
        kinds = " ".join("%s=%d" % kv for kv in sorted(self.by_type.items()))
        return "%s: %d records, %d bytes: %s" % (
            self.hello.role if self.hello else "refusing secondary", self.count, self.bytes, kinds)


def check(data, cut=False, dump=None):
    """Checks the whole of one direction; cut: it may end within a record, as a lost connection."""
    stream = Stream()
    at = 0
    place = SECONDARY
    while at < len(data) or at == 0:
        try:
            if at == 0:
                # Who speaks stands in the HELLO, which both may send.
                first = records.parse(data, 0, SECONDARY, 0)
                if first.type == HELLO:
                    stream.hello = records.parse_hello(first)
                    place = stream.hello.role
            rec = records.parse(data, at, place, stream.count)
        except Cut:
            if cut:
                break
            raise
        if dump:
            dump(rec)
        stream.take(rec)
        at += rec.size
    return stream


def check_pair(primary, secondary):
    """What a secondary acknowledges, against what its primary sent."""
    if not primary.hello or primary.hello.role != PRIMARY:
        raise Violation(0, "the first of the two is no primary's")
    if not secondary.hello:
        return
    if secondary.hello.role != SECONDARY:
        raise Violation(0, "both are of a primary")
    for mine, yours in zip(primary.hello.volumes, secondary.hello.volumes):
        if mine[0] != yours[0] or mine[1] > yours[1]:
            raise Violation(0, "the volumes do not match")
    if primary.hello.name != secondary.hello.name or \
            len(primary.hello.volumes) != len(secondary.hello.volumes):
        raise Violation(0, "the groups do not match")
    if primary.kind == 2 and "clones" not in secondary.hello.flags:
        raise Violation(0, "a sync into clones, which were not offered")
    if primary.kind and "consistent" not in secondary.hello.flags:
        raise Violation(0, "a sync that keeps a state where there is none")
    if primary.goes_on and secondary.maps_ended and not secondary.held:
        raise Violation(0, "the primary goes on from what is held, and nothing is")
    asked = list(zip(primary.digests, primary.of_frozen))
    refused = any(not kept for _, kept in secondary.freezes)
    for answer in secondary.digests:
        # What a secondary that cannot keep its disks leaves out are DIGESTs of them.
        while asked and asked[0][0] != answer and asked[0][1] and refused:
            asked.pop(0)
        if not asked or asked.pop(0)[0] != answer:
            raise Violation(0, "a DIFFER does not answer the DIGEST in its place")
    for epoch, _ in secondary.freezes:
        if epoch not in primary.freezes or epoch not in primary.totals:
            raise Violation(0, "FROZEN of epoch %d, which was not asked for, or is not sealed" % epoch)
    if [v for v, _ in secondary.grows] != [v for v, _ in primary.grows][:len(secondary.grows)]:
        raise Violation(0, "a GROWN does not answer the GROW in its place")
    for rec in secondary.acks:
        if rec.type == ACK_SYNCED:
            if primary.kind:
                raise Violation(rec.position, "ACK_SYNCED of a sync that is not in place")
            if rec.offset > primary.changes:
                raise Violation(rec.position, "acknowledges more than was sent")
            continue
        if rec.type == ACK_RECEIVED:
            if (rec.offset > primary.changes or rec.length > primary.change_bytes):
                raise Violation(rec.position, "acknowledges more than was sent")
            if rec.epoch > max(secondary.hello.seen, secondary.hello.committed) and \
                    rec.epoch not in primary.ended_epochs:
                raise Violation(rec.position, "has received epoch %d, which was not sealed" %
                                rec.epoch)
        elif rec.epoch not in primary.totals:
            raise Violation(rec.position, "acknowledges epoch %d, which was not sealed" %
                            rec.epoch)
        elif (rec.offset, rec.length) != primary.totals[rec.epoch]:
            raise Violation(rec.position, "commit of epoch %d counts %d changes and %d bytes, "
                            "there were %d and %d" %
                            ((rec.epoch, rec.offset, rec.length) + primary.totals[rec.epoch]))
    for epoch in primary.totals:
        if epoch <= max(secondary.hello.seen, secondary.hello.committed):
            raise Violation(0, "epoch %d is not above what the secondary has seen" % epoch)
