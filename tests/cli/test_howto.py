#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lines of docs/howto-libvirt.md, run on a real node: QEMU opens the disk with each of them, and the tools for
NBD do what they are shown for."""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import unittest

import pair

TEXT = (pathlib.Path(__file__).resolve().parents[2] / 'docs/howto-libvirt.md').read_text(encoding='ascii')
SOCKET = '/run/tandem/vm1/nbd.sock'
TOOLS = ('qemu-system-x86_64', 'qemu-img', 'nbdinfo')


def lines(start):
    """The command lines of the document's code blocks that begin so, continued ones joined."""
    found = []
    for block in re.findall(r'^```\w*\n(.*?)^```', TEXT, re.M | re.S):
        joined = re.sub(r'\s*\\\n\s*', ' ', block)
        found += [line for line in joined.splitlines() if line.startswith(start)]
    return found


class Howto(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p = pair.Pair(os.environ['TANDEM'])
        cls.addClassCleanup(cls.p.close)
        cls.p.protected()

    def words(self, line):
        self.assertIn(SOCKET, line)
        return shlex.split(line.replace(SOCKET, f'{self.p.dir}/alpha/run/nbd.sock'), comments=True)

    def qemu(self, arguments):
        """QEMU starts with these, and its disk is there."""
        done = subprocess.run(['qemu-system-x86_64', '-accel', 'tcg', '-nodefaults', '-display', 'none', '-S', '-monitor',
                               'stdio', *arguments], input='info block\nquit\n', capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ''), arguments)
        self.assertRegex(done.stdout, r'nbd\.sock|json:|vda', arguments)
        self.assertRegex(done.stdout, r'Attached to: +\S*virtio', done.stdout)

    def test_qemu(self):
        found = lines('qemu-system-x86_64')
        self.assertEqual(len(found), 2)
        for line in found:
            self.qemu(self.words(line.replace('qemu-system-x86_64 ... ', '')))

    def test_proxmox(self):
        line, = lines('args: ')
        self.qemu(self.words(line.removeprefix('args: ')))

    def test_tools(self):
        shown = subprocess.run(self.words(lines('nbdinfo')[0]), check=True, capture_output=True, text=True).stdout
        self.assertIn('export="vda"', shown)
        copy = self.p.dir / 'vda.qcow2'
        subprocess.run(self.words(lines('qemu-img convert')[0].replace(' vda.qcow2', f' {copy}')), check=True,
                       capture_output=True)
        info = subprocess.run(['qemu-img', 'info', copy], check=True, capture_output=True, text=True).stdout
        self.assertIn('virtual size: 1 MiB', info)

    def test_uris(self):
        """Every URI of the document is of this socket."""
        uris = re.findall(r'nbd\+unix://\S*', TEXT)
        self.assertGreater(len(uris), 3)
        for uri in uris:
            self.assertRegex(uri, r'^nbd\+unix:///(vda)?\?socket=(/run/tandem/vm1/nbd\.sock|/run/vm1\.sock)\b')


if __name__ == '__main__':
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        print('missing: ' + ', '.join(missing))
        sys.exit(77)
    unittest.main()
