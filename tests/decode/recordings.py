# SPDX-License-Identifier: LGPL-2.1-or-later
"""The recordings of a folder (TANDEM_RECORD of a node): NODE-PID-NUMBER.out and .in, of one connection each; and journals
that a test has put there: NAME.journal."""
import glob
import os
import re

import journal
import records
import stream
from records import ACK_COMMITTED, Cut, PRIMARY, SECONDARY, Violation


def read(path):
    with open(path, "rb") as file:
        return file.read()


def walk(data, place):
    """The whole records of one direction."""
    at = 0
    while at < len(data):
        try:
            rec = records.parse(data, at, place)
        except Cut:
            return
        yield rec
        at += rec.size


def newest_commit(data):
    """The newest epoch that the secondary's bytes acknowledge as committed, or 0."""
    return max((rec.epoch for rec in walk(data, SECONDARY) if rec.type == ACK_COMMITTED), default=0)


def sessions(folder, node, pid):
    """Of one process, in order: (path of what it sent, of what it heard)."""
    found = []
    for path in glob.glob(os.path.join(folder, "%s-%d-*.out" % (node, pid))):
        found.append((int(re.search(r"-(\d+)\.out$", path).group(1)), path, path[:-4] + ".in"))
    return [f[1:] for f in sorted(found)]


def sent(folder, node, pid):
    """What a primary's process sent on each connection, in order.  One that was killed may have sent more than it had
    recorded: then the other end has heard it."""
    heard = [read(p) for p in glob.glob(os.path.join(folder, "*.in")) if not os.path.basename(p).startswith(node + "-")]
    for path, _ in sessions(folder, node, pid):
        data = read(path)
        yield max([data] + [h for h in heard if data and h.startswith(data)], key=len)


class Totals:
    def __init__(self):
        self.streams = self.records = self.bytes = self.journals = self.journal_records = 0

    def __str__(self):
        return "%d recorded streams of %d records, %d bytes; %d journals of %d records" % (
            self.streams, self.records, self.bytes, self.journals, self.journal_records)


def _check_connection(out, cut, totals):
    paths = [out, out[:-4] + ".in"]
    done = []
    for path in paths:
        data = read(path)
        if not data:
            continue  # the peer said nothing
        try:
            done.append(stream.check(data, cut))
        except Violation as v:
            raise Violation(v.position, "%s: %s" % (path, v.reason)) from None
        totals.streams += 1
        totals.records += done[-1].count
        totals.bytes += len(data)
    if len(done) == 2 and done[0].hello and done[1].hello:
        primary, secondary = sorted(done, key=lambda d: d.hello.role != PRIMARY)
        try:
            stream.check_pair(primary, secondary)
        except Violation as v:
            raise Violation(v.position, "%s and .in: %s" % (out, v.reason)) from None


def check(folder, cut=True, totals=None, remove=False):
    """Every connection of the folder: each direction by itself, and both together.  cut: one may end within a
    record, a journal in a torn tail.  Raises Violation."""
    totals = totals or Totals()
    for out in sorted(glob.glob(os.path.join(folder, "*.out"))):
        _check_connection(out, cut, totals)
        if remove:
            os.unlink(out)
            os.unlink(out[:-4] + ".in")
    for path in sorted(glob.glob(os.path.join(folder, "*.journal"))):
        try:
            done = journal.Journal(read(path), crashed=cut).check()
        except Violation as v:
            raise Violation(v.position, "%s: %s" % (path, v.reason)) from None
        totals.journals += 1
        totals.journal_records += done.records
    return totals
