#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks recorded streams and journals against docs/stream.md and docs/journal.md.

Exit 0: every file obeys.  Exit 1: one does not; the line says the file, the byte and why."""
import argparse
import mmap
import os
import sys

import journal
import recordings
import stream
from records import Violation


def read(path):
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    sub = parser.add_subparsers(dest="command", required=True)
    for name, text in (("stream", "recorded bytes of one direction of one connection each"),
                       ("pair", "both directions of one connection: PRIMARY SECONDARY"),
                       ("folder", "all that nodes recorded in these folders (TANDEM_RECORD)"),
                       ("journal", "journal files")):
        command = sub.add_parser(name, help=text)
        command.add_argument("files", nargs=2 if name == "pair" else "+", metavar="FOLDER" if name == "folder" else "FILE")
        command.add_argument("--dump", action="store_true", help="print each record")
        if name == "journal":
            command.add_argument("--crashed", action="store_true",
                                 help="accept a torn tail and a torn header")
            command.add_argument("--committed", type=int, metavar="EPOCH",
                                 help="the log must not end below this committed epoch")
        else:
            command.add_argument("--cut", action="store_true",
                                 help="a recording may end within a record")
    args = parser.parse_args(argv)
    dump = print if args.dump else None
    bad = 0
    streams = []
    for path in args.files:
        try:
            if args.command == "folder":
                totals = recordings.check(path, args.cut)
                print("%s: %s" % (path, totals))
                bad |= not totals.records  # nothing was recorded: a test that tests nothing
                continue
            data = read(path)
            if args.command == "journal":
                done = journal.Journal(data, args.crashed, args.committed, dump).check()
            else:
                done = stream.check(data, args.cut, dump)
                streams.append(done)
            print("%s: %s" % (path, done.summary()))
        except (OSError, Violation) as e:
            print("%s: %s" % (path, e), file=sys.stderr)
            bad = 1
    if args.command == "pair" and len(streams) == 2:
        try:
            stream.check_pair(*streams)
        except Violation as v:
            print("%s: %s" % (args.files[1], v), file=sys.stderr)
            bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
