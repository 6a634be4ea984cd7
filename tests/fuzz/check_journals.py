#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journals that the replica leaves behind for each input of the corpus, read by the independent
decoder.  usage: check_journals.py FUZZ_REPLICA CORPUS..."""
import glob
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "decode"))

import journal  # noqa: E402
from records import Violation  # noqa: E402


def main():
    program, *corpora = sys.argv[1:]
    paths = []
    bad = records = 0
    with tempfile.TemporaryDirectory() as directory:
        for corpus in corpora:
            target = os.path.join(directory, os.path.basename(corpus))
            os.mkdir(target)
            subprocess.run([program, corpus, "8"], check=True,
                           env={**os.environ, "TANDEM_FUZZ_JOURNALS": target})
        paths = sorted(glob.glob(os.path.join(directory, "*", "journal-*")))
        for path in paths:
            with open(path, "rb") as file:
                data = file.read()
            try:
                committed = int(path.rsplit("-", 1)[1])
                done = journal.Journal(data, crashed=True, committed=committed).check()
                print("%s; %s" % (done.summary(), done.why))
                records += done.records
            except Violation as v:
                print("%s: %s" % (os.path.basename(path), v))
                bad += 1
    print("%d journals with %d records, %d bad" % (len(paths), records, bad))
    return 1 if bad or not records else 0


if __name__ == "__main__":
    sys.exit(main())
