#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service files, as systemd-analyze sees them."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

UNITS = sorted((pathlib.Path(os.environ['TANDEM_BUILD']) / 'packaging').glob('*.service'))
# Of 100, what systemd-analyze security may say at most, with room for another version's opinion; a guest needs more.
EXPOSURE = {'primary': 45, 'secondary': 45, 'run': 90, 'standby': 90}


class Units(unittest.TestCase):
    def setUp(self):
        tmp = tempfile.TemporaryDirectory(prefix='tandem.')
        self.addCleanup(tmp.cleanup)
        self.units = []
        for unit in UNITS:
            # an instance, whose program exists: verify looks for it
            text = re.sub(r'^ExecStart=\S+', f'ExecStart={os.environ["TANDEM"]}', unit.read_text(), flags=re.M)
            path = pathlib.Path(tmp.name) / unit.name.replace('@.', '@vm1.')
            path.write_text(text)
            self.units.append(path)

    def analyze(self, *argv):
        done = subprocess.run(['systemd-analyze', *argv], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def test_found(self):
        self.assertEqual({re.match(r'tandem-(\w+)@', u.name)[1] for u in UNITS}, set(EXPOSURE))

    def test_verify(self):
        for unit in self.units:
            code, text = self.analyze('verify', '--man=no', '--recursive-errors=no', str(unit))
            self.assertEqual((code, text), (0, ''), unit.name)

    def test_a_fault_is_noticed(self):
        unit = next(u for u in self.units if 'primary' in u.name)
        unit.write_text(unit.read_text().replace('Restart=on-failure', 'Restart=perhaps'))
        self.assertIn('perhaps', self.analyze('verify', '--man=no', '--recursive-errors=no', str(unit))[1])

    def test_hardening(self):
        for unit in self.units:
            most = EXPOSURE[re.match(r'tandem-(\w+)@', unit.name)[1]]
            code, text = self.analyze('security', '--offline=yes', f'--threshold={most}', '--no-pager', str(unit))
            self.assertEqual(code, 0, text)


if __name__ == '__main__':
    if not shutil.which('systemd-analyze'):
        print('there is no systemd-analyze (package systemd)')
        sys.exit(77)
    unittest.main()
