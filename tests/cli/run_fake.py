#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program against a fake node; at the end, that every exit code of docs/errors.md was seen.

usage: run_fake.py [TEST...]    as `python3 -m unittest` names them"""
import pathlib
import re
import sys
import unittest

import fake_node
import test_commands
import test_errors
import test_status


class ExitCodes(unittest.TestCase):
    def test_all_were_seen(self):
        text = (pathlib.Path(__file__).resolve().parents[2] / 'docs/errors.md').read_text(encoding='ascii')
        documented = {int(n) for n in re.findall(r'^\| (\d+) \|', text, re.M)}
        self.assertEqual(documented, fake_node.exit_codes, 'exit codes of docs/errors.md and those that these tests saw')


loader = unittest.defaultTestLoader
if len(sys.argv) > 1:
    suite = loader.loadTestsFromNames(sys.argv[1:])
else:
    suite = unittest.TestSuite(loader.loadTestsFromModule(m) for m in (test_commands, test_errors, test_status))
    suite.addTest(ExitCodes('test_all_were_seen'))  # last: it looks at what the others saw
sys.exit(not unittest.TextTestRunner(warnings='error').run(suite).wasSuccessful())
