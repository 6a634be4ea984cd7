#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The committed corpus is what make_corpus.py makes."""
import os
import sys

import make_corpus

bad = 0
names = set()
for name, data in make_corpus.files():
    names.add(name)
    path = os.path.join(make_corpus.HERE, "corpus", name)
    if not os.path.exists(path) or open(path, "rb").read() != data:
        print("corpus/%s is not what make_corpus.py makes: run it" % name)
        bad = 1
print("%d files" % len(names))
sys.exit(bad)
