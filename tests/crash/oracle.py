# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a secondary may hold after a crash, in two ways that know nothing of each other:

- `Line`: the bytes that crossed the link, replayed up to the commit, give the image of every disk, bit by bit (I1, I2).
- `check_walkers`: the clients' own logs. The regions of each must be the state after a prefix of its log; nothing that
  is there was issued after something that is missing had completed (I6, over all clients and disks, hence I2), and
  nothing is missing that had completed before an acknowledged cut (I1, I7), or before a flush that was answered where
  the disks were served from then on."""
import os
import sys

from node import Failure

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "decode"))

import records  # noqa: E402
from recordings import walk  # noqa: E402
from records import PRIMARY, SEAL, SYNC_END, WRITE  # noqa: E402


class Line:
    """One line of history: the group's disks as the stream tells them, epoch after epoch."""

    def __init__(self, images):
        self.images = [bytearray(i) for i in images]

    def replay(self, data, at_close, learn=False):
        """Takes the bytes that a primary sent on one connection; at the end of each epoch at_close(epoch, images).  What
        a sync carries must be what is known, but where the primary has written without a link (learn)."""
        images = self.images
        for rec in walk(data, PRIMARY):
            if rec.is_change:
                image = images[rec.volume]
                end = rec.offset + rec.length
                new = rec.payload if rec.type == WRITE else bytes(rec.length)
                if rec.flags & records.FLAG_SYNC and not learn and image[rec.offset:end] != new:
                    raise Failure("byte %d of the stream: the sync carries other data for disk %d, %d+%d, than is known" %
                                  (rec.position, rec.volume, rec.offset, rec.length))
                image[rec.offset:end] = new
            elif rec.type in (SEAL, SYNC_END):
                at_close(rec.epoch, images)


def compare(what, want, have):
    for disk, (a, b) in enumerate(zip(want, have)):
        if len(a) != len(b):
            raise Failure("%s: disk %d has %d bytes, not %d" % (what, disk, len(b), len(a)))
        if a == b:
            continue
        wrong = [i for i in range(len(a)) if a[i] != b[i]]
        raise Failure("%s: disk %d differs in %d bytes, from %d to %d: %s, not %s" %
                      (what, disk, len(wrong), wrong[0], wrong[-1], bytes(b[wrong[0]:wrong[0] + 24]).hex(),
                       bytes(a[wrong[0]:wrong[0] + 24]).hex()))


class _Prefix:
    """Which prefixes of a walker's changes its regions may be the state of.  torn: of its last change, if that was never
    answered, some pages may be there and others not: so ends a write to a file whose writer is killed."""

    def __init__(self, walker, before, after, torn=False):
        start, size = walker.region
        self.walker = walker
        self.changes = [op for op in walker.log if op.change]
        old = [i[start:start + size] for i in before]
        want = [i[start:start + size] for i in after]
        self.possible = []
        for k, regions in self._states(old):
            changed = self.changes[k - 1] if k else None
            if (not changed or regions[changed.disk] == want[changed.disk]) and regions == want:
                self.possible.append(k)
            elif torn and k == len(self.changes) > 0 and not changed.completed and self._torn(k, old, want):
                self.possible.append(k - 1)
        if not self.possible:
            (count, disk, first, last), k = min((self._distance(regions, want), k) for k, regions in self._states(old))
            raise Failure("%s: its regions are the state after no prefix of its %d changes; nearest to it is that after %d: %d bytes "
                          "of disk %d differ, from %d to %d; the last one of it is %s, the next one %s" %
                          (walker.name, len(self.changes), k, count, disk, start + first, start + last, self._tell(k - 1),
                           self._tell(k)))

    def _states(self, before):
        """(0, the regions), (1, the same after the first change), ..."""
        regions = [bytearray(r) for r in before]
        yield 0, regions
        for i, op in enumerate(self.changes):
            at = op.offset - self.walker.region[0]
            regions[op.disk][at:at + len(op.data)] = op.data
            yield i + 1, regions

    def _torn(self, k, before, want):
        """Each page is either as before or as after change k."""
        states = [[bytes(r) for r in regions] for i, regions in self._states(before) if i in (k - 1, k)]
        return all(w[p:p + 4096] in (o[p:p + 4096], n[p:p + 4096])
                   for o, n, w in zip(*states, want) for p in range(0, len(w), 4096))

    @staticmethod
    def _distance(have, want):
        """Bytes that differ, and where: disk, first, last."""
        wrong = [(d, i) for d, (a, b) in enumerate(zip(have, want)) if a != b for i in range(len(a)) if a[i] != b[i]]
        return (len(wrong), wrong[0][0], wrong[0][1], wrong[-1][1]) if wrong else (0, 0, 0, 0)

    def _tell(self, k):
        if not 0 <= k < len(self.changes):
            return "none"
        op = self.changes[k]
        return "%d+%d on disk %d, %s" % (op.offset, len(op.data), op.disk, "completed" if op.completed else "not answered")

    def present(self):
        """When the last change that is surely there was issued."""
        return self.changes[self.possible[0] - 1].issued if self.possible[0] else 0

    def missing(self):
        """When the first change that is surely missing completed, or None."""
        k = self.possible[-1]
        return self.changes[k].completed if k < len(self.changes) else None


def check_walkers(load, before, after, acknowledged, flushed=False):
    """before, after: images; acknowledged: an epoch (or 0) whose cut, if the load asked for it, must be contained;
    flushed: the disks were served from; what had completed before an answered flush, or a change with FUA, was asked for must
    be there, too, and a change that was not answered may be torn."""
    prefixes = [_Prefix(w, before, after, torn=flushed) for w in load.walkers]
    newest = max((p.present() for p in prefixes), default=0)
    # A request whose cut is acknowledged: everything that had completed when it was asked for is there.
    promised = max((asked for asked, epoch in load.cuts if epoch <= acknowledged), default=0)
    durable = max((op.issued for c in load.clients for op in c.log if op.completed and (op.fua or not op.change)),
                  default=0) if flushed else 0
    for p in prefixes:
        gone = p.missing()
        if flushed and any(op.fua and op.completed for op in p.changes[p.possible[-1]:]):
            raise Failure("%s: a change with FUA was answered and is missing" % p.walker.name)
        if gone is not None and gone < newest:
            raise Failure("%s: change %d completed at %.6f and is missing, one that was issued at %.6f is there" %
                          (p.walker.name, p.possible[-1], gone, newest))
        if gone is not None and gone < promised:
            raise Failure("%s: change %d completed at %.6f and is missing, the cut asked for at %.6f was acknowledged" %
                          (p.walker.name, p.possible[-1], gone, promised))
        if gone is not None and gone < durable:
            raise Failure("%s: change %d completed at %.6f and is missing, the flush asked for at %.6f was answered" %
                          (p.walker.name, p.possible[-1], gone, durable))
    return sum(p.possible[-1] for p in prefixes), sum(len(p.changes) for p in prefixes)
