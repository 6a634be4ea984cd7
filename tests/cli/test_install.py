#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""`meson install` below another root: everything in its place, and the installed program runs its own plugin."""
import os
import pathlib
import socket
import subprocess
import tempfile
import unittest

import pair

BUILD = os.environ['TANDEM_BUILD']
UNITS = tuple(f'tandem-{role}@.service' for role in ('primary', 'secondary', 'run', 'standby'))


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix='tandem.')
        cls.addClassCleanup(cls.tmp.cleanup)
        cls.root = pathlib.Path(cls.tmp.name)
        done = subprocess.run(['meson', 'install', '-C', BUILD, '--no-rebuild', '--destdir', cls.root],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        cls.files = {str(p.relative_to(cls.root)) for p in cls.root.rglob('*') if p.is_file()}

    def only(self, suffix):
        found = [f for f in self.files if f.endswith(suffix)]
        self.assertEqual(len(found), 1, f'{suffix}: {sorted(self.files)}')
        return self.root / found[0]

    def test_files(self):
        for suffix in ('bin/tandem', 'nbdkit/plugins/nbdkit-tandem-plugin.so', 'man/man1/tandem.1',
                       'man/man1/nbdkit-tandem-plugin.1', 'man/man5/tandem.conf.5',
                       'share/bash-completion/completions/tandem', *('systemd/system/' + u for u in UNITS)):
            self.only(suffix)

    def test_nothing_of_the_tests(self):
        self.assertEqual([f for f in self.files if 'test' in f or 'fuzz' in f or f.endswith(('.a', '.h'))], [])

    def test_the_program_finds_its_plugin(self):
        env = {k: v for k, v in os.environ.items() if k != 'TANDEM_PLUGIN'}
        p = pair.Pair(self.only('bin/tandem'))
        self.addCleanup(p.close)
        p.init()
        p.start('secondary', 'beta', env=env)
        p.wait('beta runs', lambda: p.state('beta') == 'stopped')
        maps = pathlib.Path(f'/proc/{p.processes["beta"].pid}/maps').read_text(encoding='utf-8')
        self.assertIn(str(self.only('nbdkit-tandem-plugin.so')), maps)


class Service(unittest.TestCase):
    """The service manager is told when the node can be used, and when it begins to end."""

    def test_notify(self):
        p = pair.Pair(os.environ['TANDEM'])
        self.addCleanup(p.close)
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.settimeout(pair.SECONDS)
        manager.bind(str(p.dir / 'notify'))
        p.init()
        p.start('secondary', 'beta', env=dict(os.environ, NOTIFY_SOCKET=str(p.dir / 'notify')))
        self.assertEqual(manager.recv(4096), b'READY=1')
        p.wait('the first line of the log', lambda: '\n' in p.log('beta'))
        self.assertRegex(p.log('beta'), r'^tandem\[beta\]: secondary of group vm1 is ready: link on 127\.0\.0\.1:\d+, exports '
                         rf'on {p.dir}/beta/run/nbd\.sock\n')
        # at once, without another look: both sockets take clients
        control = p.control('beta')
        self.assertEqual(control.greeting['tandem']['node'], 'beta')
        control.close()
        nbd = socket.socket(socket.AF_UNIX)
        self.addCleanup(nbd.close)
        nbd.settimeout(pair.SECONDS)
        nbd.connect(str(p.dir / 'beta/run/nbd.sock'))
        self.assertEqual(nbd.recv(8), b'NBDMAGIC')
        nbd.close()
        self.assertEqual(p.stop('beta'), 0)
        self.assertEqual(manager.recv(4096), b'STOPPING=1')


if __name__ == '__main__':
    unittest.main()
