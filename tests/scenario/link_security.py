#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may not speak to a secondary is refused, with one clear log line, and changes nothing: neither disks, journal and
metadata, nor the session that runs.  In clear text (on loopback), with PSK and with X.509.

usage: tests/scenario/link_security.py BUILD_DIR [TEST...]"""
import json
import os
import pathlib
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / 'tests/cli'), str(TOP / 'tests/decode')]
import pair  # noqa: E402
import records  # noqa: E402
import samples  # noqa: E402

TANDEM = os.path.join(os.path.abspath(sys.argv[1]), 'tandem')
SIZE = 1 << 20
VERSION = 'another version of the protocol: run the same version of Tandem on both nodes'


def hello(**fields):
    """A primary's HELLO that a secondary of the group vm1 with one disk vda would take, but for the fields."""
    role = fields.pop('role', 1)
    volumes = fields.pop('volumes', [(b'vda', SIZE)])
    return samples.join([samples.plain(records.HELLO, payload=samples.hello_payload(role, volumes, **fields))])


class Case(unittest.TestCase):
    maxDiff = None

    def pair(self, tail=''):
        self.p = pair.Pair(TANDEM, size=SIZE, tail=tail)
        self.addCleanup(self.p.close)
        text = self.p.conf.read_text()
        self.port = int(re.search(r'\[node beta\]\nlink = 127.0.0.1:(\d+)', text)[1])
        return self.p

    def files(self, node='beta'):
        """Everything that the node writes: any write at all moves the time."""
        found = sorted([*(self.p.dir / node / 'state').iterdir(), self.p.dir / node / 'vda.img'])
        return {f.name: (f.stat().st_mtime_ns, f.stat().st_size) for f in found}

    def status(self, node='beta'):
        return json.loads(self.p.done('status', node, '--json'))

    def look(self):
        """What may not change.  What was committed goes into the images and out of the journal in its own time: waits until
        that has ended, as far as one can see."""

        def rests():
            return time.time_ns() - max(written for written, _ in self.files().values()) > 1_000_000_000
        self.p.wait('beta has not written for a second', rests)
        status = self.status()
        return {k: status[k] for k in ('role', 'state', 'generation', 'epoch', 'disks')} | {
            'connected': status['link']['connected'], 'peer': status['link']['peer'], 'files': self.files()}

    def refusals(self):
        return [line for line in self.p.log('beta').splitlines() if 'refused: ' in line]

    def refused(self, why, attack):
        """attack() is refused with one line that says why.  The node writes one such line a second at most, so it is repeated
        until its own line is there; each line in between has the same reason."""
        before, known = self.look(), len(self.refusals())

        def told():
            attack()
            return self.p.wait('a refusal or its silence', lambda: self.refusals()[known:] or ['-'])[0] != '-'
        self.p.wait(f'refusal: {why}', told)
        for line in self.refusals()[known:]:
            self.assertRegex(line, rf'^tandem\[beta\]: connection from 127\.0\.0\.1:\d+ refused: {why}$')
        self.assertEqual(self.look(), before)

    def send(self, data, half_close=True):
        """Connects, sends, and reads to the end; returns what was said."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=pair.SECONDS) as s:
            said = b''
            try:
                s.sendall(data)
                if half_close:
                    s.shutdown(socket.SHUT_WR)
                while part := s.recv(4096):
                    said += part
            except OSError:
                pass  # it closes, or has closed before all was sent
            return said


class ClearText(Case):
    """On loopback, where clear text is allowed."""

    def setUp(self):
        self.pair().protected()

    def test_crafted_bytes(self):
        good = hello()
        flipped = bytearray(good)
        flipped[100] ^= 1
        for why, data in (
                ('bad magic', b'GET / HTTP/1.1\r\nHost: here\r\n\r\n'.ljust(64)),
                ('bad magic', bytes(4096)),
                ('bad header checksum', good[:40] + b'\1' + good[41:]),
                ('bad payload checksum', bytes(flipped)),
                ('type not allowed here', samples.join([samples.plain(records.COMMIT, epoch=5)])),
                ('it did not begin with a hello', samples.join([samples.write(1, 0, 4096)])),
                ('sequence number is not the next one', samples.join(
                    [samples.plain(records.HELLO, payload=samples.hello_payload(1))], first_seq=1)),
                ('it went on before it was accepted', good + samples.join([samples.write(1, 0, 4096)], first_seq=1)),
                ('it closed the connection', b''),
                ('it closed the connection', good[:63]),
                ('it closed the connection', good[:200])):
            with self.subTest(why=why, data=data[:16]):
                self.refused(why, lambda data=data: self.send(data))

    def test_crafted_hellos(self):
        for why, data in (
                (VERSION, hello(version=9, compat=9)),
                (VERSION, hello(version=1, compat=1)),
                ('both nodes are secondary: .*', hello(role=2)),
                ('another group: the primary serves "vm2", the secondary "vm1"; .*', hello(name=b'vm2')),
                ('unrelated: the secondary\'s data belongs to another group; .*', hello(group=bytes(range(16, 32)))),
                ('volume number 1 is "vdb" on the primary and "vda" on the secondary: .*', hello(volumes=[(b'vdb', SIZE)])),
                ('the primary has 2 volumes, the secondary 1: .*', hello(volumes=[(b'vda', SIZE), (b'vdb', SIZE)])),
                ('disk vda is smaller on the secondary .*', hello(volumes=[(b'vda', 64 * SIZE)])),
                ('hello with a wrong number of volumes', hello(count=65)),
                ('reserved field of the hello is not zero', hello(reserved=bytes(79) + b'x'))):
            with self.subTest(why=why, data=data[64:80]):
                self.refused(why, lambda data=data: self.send(data))

    def test_the_reason_is_told_to_a_peer_that_speaks_the_protocol(self):
        said = self.send(hello(name=b'vm2'), half_close=False)
        self.assertEqual(int.from_bytes(said[4:6], 'little'), records.GOODBYE)
        self.assertRegex(said[64:].rstrip(b'\0').decode(), 'group')

    def test_half_open_connections(self):
        """Somebody who connects and says nothing, or half of something, is given up; meanwhile the session goes on."""
        silent = [socket.create_connection(('127.0.0.1', self.port)) for _ in range(16)]
        for s in silent[::2]:
            s.sendall(hello()[:70])
        for s in silent:
            self.addCleanup(s.close)
        self.p.done('cut', 'alpha', '--wait', '--timeout', '5')
        before, known = self.look(), len(self.refusals())
        self.p.wait('they are given up', lambda: self.refusals()[known:])
        for s in silent[:2]:
            s.settimeout(pair.SECONDS)
            self.assertEqual(s.recv(1), b'')
        self.assertTrue(all(re.search('refused: it said nothing(, and others wait)?$', line) for line in self.refusals()[known:]))
        self.assertEqual(self.look(), before)
        self.p.done('cut', 'alpha', '--wait', '--timeout', '5')

    def test_the_primary_comes_back_beside_half_open_connections(self):
        self.p.done('disconnect', 'alpha')
        silent = [socket.create_connection(('127.0.0.1', self.port)) for _ in range(16)]
        for s in silent:
            self.addCleanup(s.close)
        self.p.done('connect', 'alpha')
        self.p.wait_state('alpha', 'protected')

    def test_the_primary_comes_back_while_somebody_takes_every_place(self):
        """Another host keeps all places with connections that say nothing, and comes back at once where one was closed."""
        self.p.done('disconnect', 'alpha')
        over = threading.Event()
        full = threading.Event()

        def crowd():
            silent = []
            while not over.is_set():
                while len(silent) < 16:
                    silent.append(socket.create_connection(('127.0.0.1', self.port), source_address=('127.0.0.2', 0)))
                full.set()
                for s in select.select(silent, [], [], 0.05)[0]:
                    silent.remove(s)
                    s.close()
            for s in silent:
                s.close()
        thread = threading.Thread(target=crowd)
        thread.start()
        try:
            full.wait(pair.SECONDS)
            self.p.done('connect', 'alpha')
            self.p.wait_state('alpha', 'protected')
        finally:
            over.set()
            thread.join()

    def test_a_new_secondary_learns_nothing_from_garbage(self):
        """One that does not know its group yet would take that of its first primary."""
        self.p.close()
        self.pair().init()
        self.p.start('secondary', 'beta')
        self.p.wait_state('beta', 'stopped')
        for why, data in (('bad magic', b'x' * 64), ('another group: .*', hello(name=b'vm2')),
                          (VERSION, hello(version=9, compat=9)),
                          ('volume number 1 is .*', hello(volumes=[(b'vdb', SIZE)]))):
            self.refused(why, lambda data=data: self.send(data))
        self.p.start('primary', 'alpha')
        self.p.wait_state('alpha', 'protected')


class Tls(Case):
    """What is alike with PSK and X.509."""

    def clear_text_is_refused(self):
        for data in (hello(), b'GET / HTTP/1.1\r\n\r\n', bytes(64)):
            self.refused('TLS: what the peer sends is not TLS 1.2 or newer .*', lambda data=data: self.send(data))

    def client(self, *options):
        """gnutls-cli; it goes when it is refused."""
        subprocess.run(['gnutls-cli', '--no-ca-verification', '--port', str(self.port), *options, '127.0.0.1'],
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=pair.SECONDS)

    def other_primary(self, before, after, why_beta, why_alpha):
        """alpha comes back with another configuration: refused on both sides, and both say why."""
        self.p.stop('alpha')
        conf = self.p.conf.read_text()
        self.assertIn(before, conf)
        known = len(self.refusals())
        self.p.wait('beta has noticed', lambda: not self.status()['link']['connected'])
        untouched = self.look()
        self.p.conf.write_text(conf.replace(before, after))
        self.p.start('primary', 'alpha')
        self.p.wait('alpha says why', lambda: re.search(why_alpha, self.p.log('alpha')))
        if why_beta:
            self.p.wait('beta says why', lambda: [r for r in self.refusals()[known:] if re.search(why_beta, r)])
        self.assertEqual(self.p.state('alpha'), 'solo')
        self.assertEqual(self.look(), untouched)


class Psk(Tls):
    def setUp(self):
        self.keys = pathlib.Path(self.enterContext(pair.tempfile.TemporaryDirectory()))
        for name in ('right', 'wrong'):
            (self.keys / name).write_text(f'tandem:{os.urandom(32).hex()}\n')
        (self.keys / 'user').write_text((self.keys / 'right').read_text().replace('tandem', 'mallory'))
        self.pair(f'[security]\ntls-psk = {self.keys}/right\n').protected()

    def key(self, name):
        return (self.keys / name).read_text().strip().split(':')[1]

    def test_protected(self):
        for node in ('alpha', 'beta'):
            self.assertTrue(self.status(node)['link']['tls'])
        self.clear_text_is_refused()

    def test_a_wrong_key(self):
        self.refused('TLS: .+', lambda: self.client('--priority=NORMAL:+PSK:+DHE-PSK:+ECDHE-PSK', '--pskusername=tandem',
                                               f'--pskkey={self.key("wrong")}'))
        self.other_primary('/right', '/wrong', 'refused: ', 'TLS|handshake|authenti')

    def test_an_unknown_user(self):
        self.refused('TLS: unknown PSK user "mallory"', lambda: self.client('--priority=NORMAL:+PSK:+DHE-PSK:+ECDHE-PSK', '--pskusername=mallory',
                                               f'--pskkey={self.key("right")}'))

    def test_nobody(self):
        """Neither key nor certificate."""
        self.refused('TLS: nothing in common with the peer: .*', lambda: self.client('--priority=NORMAL'))

    def test_a_primary_in_clear_text(self):
        self.other_primary(f'tls-psk = {self.keys}/right', '', 'refused: ', 'beta')


class X509(Tls):
    TEMPLATES = {
        'ca': 'cn = "Tandem test CA"\nca\ncert_signing_key\n',
        'server': 'cn = "beta"\nip_address = "127.0.0.1"\ntls_www_server\nsigning_key\nencryption_key\n',
        'elsewhere': 'cn = "elsewhere"\nip_address = "192.0.2.1"\ntls_www_server\nsigning_key\nencryption_key\n',
        'client': 'cn = "alpha"\ntls_www_client\nsigning_key\nencryption_key\n',
    }

    def certificate(self, directory, name, kind, ca=None):
        """directory/NAME-cert.pem and -key.pem, by the CA in the directory ca (default: itself)."""
        directory.mkdir(exist_ok=True)
        key, cert, template = directory / f'{name}-key.pem', directory / f'{name}-cert.pem', directory / 'template'
        template.write_text(self.TEMPLATES[kind])
        signed = ['--generate-self-signed'] if not ca else [
            '--generate-certificate', '--load-ca-certificate', ca / 'ca-cert.pem', '--load-ca-privkey', ca / 'ca-key.pem']
        for words in (['--generate-privkey', '--key-type=ecdsa', '--outfile', key],
                      [*signed, '--load-privkey', key, '--template', template, '--outfile', cert]):
            subprocess.run(['certtool', *words], check=True, capture_output=True)
        template.unlink()

    def make(self, directory, ca, server='server'):
        """What nbdkit and QEMU want in a directory."""
        self.certificate(directory, 'server', server, ca)
        self.certificate(directory, 'client', 'client', ca)
        (directory / 'ca-cert.pem').write_bytes((ca / 'ca-cert.pem').read_bytes())

    def setUp(self):
        self.tls = pathlib.Path(self.enterContext(pair.tempfile.TemporaryDirectory()))
        for ca in ('ca', 'ca2'):
            self.certificate(self.tls / ca, 'ca', 'ca')
        self.make(self.tls / 'right', self.tls / 'ca')
        self.make(self.tls / 'other', self.tls / 'ca2')
        self.pair(f'[security]\ntls-x509 = {self.tls}/right\n')

    def test_protected(self):
        self.p.protected()
        for node in ('alpha', 'beta'):
            self.assertTrue(self.status(node)['link']['tls'])
        self.clear_text_is_refused()

    def test_no_certificate(self):
        self.p.protected()

        def attack():
            context = ssl.create_default_context(cafile=str(self.tls / 'ca/ca-cert.pem'))
            try:
                with socket.create_connection(('127.0.0.1', self.port), timeout=pair.SECONDS) as raw, \
                        context.wrap_socket(raw, server_hostname='127.0.0.1') as s:
                    s.sendall(hello())
                    s.recv(1)
            except OSError:
                pass
        self.refused('TLS: the peer has shown no certificate', attack)

    def test_a_certificate_of_another_ca(self):
        self.p.protected()
        self.refused('TLS: .*certificate.*', lambda: self.client(
            f'--x509certfile={self.tls}/other/client-cert.pem', f'--x509keyfile={self.tls}/other/client-key.pem'))
        self.other_primary('/right', '/other', None, 'certificate')

    def test_a_server_certificate_in_place_of_a_client_s(self):
        self.p.protected()
        self.refused('TLS: .*certificate.*', lambda: self.client(
            f'--x509certfile={self.tls}/right/server-cert.pem', f'--x509keyfile={self.tls}/right/server-key.pem'))

    def test_the_certificate_of_another_host(self):
        """The primary refuses a secondary whose certificate is not of the address that it called."""
        self.make(self.tls / 'right', self.tls / 'ca', server='elsewhere')
        self.p.init()
        self.p.start('secondary', 'beta')
        self.p.start('primary', 'alpha')
        self.p.wait('alpha says why', lambda: 'certificate' in self.p.log('alpha'))
        self.assertEqual(self.p.state('alpha'), 'solo')
        self.assertEqual(self.p.state('beta'), 'stopped')


class Listening(Case):
    """No plaintext listener on an address that is not loopback."""

    def test_at_config_load(self):
        p = self.pair()
        p.init()
        p.conf.write_text(p.conf.read_text().replace(f'127.0.0.1:{self.port}', f'192.0.2.1:{self.port}'))
        message = (': key "link" in [node beta]: 192.0.2.1 is not a loopback address and nothing encrypts the link; expected '
                   'tls-psk or tls-x509 in [security], or plaintext-link = yes in [unsafe]')
        for node in ('alpha', 'beta'):
            done = p.run('secondary', node)
            self.assertEqual(done.returncode, 3)
            self.assertIn(message, done.stderr)
        plugin = pathlib.Path(sys.argv[1]) / 'src/replicator/nbdkit-tandem-plugin.so'
        done = subprocess.run(['nbdkit', '-f', '-U', p.dir / 's', plugin, f'config={p.conf}', 'node=beta', 'role=secondary'],
                              capture_output=True, text=True, timeout=pair.SECONDS)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(message, done.stderr)

    def test_at_listen(self):
        """The name "localhost" is loopback for the configuration; what it resolves to decides when it listens."""
        p = self.pair()
        p.init()
        p.conf.write_text(p.conf.read_text().replace(f'127.0.0.1:{self.port}', f'localhost:{self.port}'))
        hosts = p.dir / 'hosts'
        hosts.write_text('0.0.0.0 localhost\n')
        done = subprocess.run(['unshare', '-m', 'sh', '-c', f'mount --bind {hosts} /etc/hosts && exec "$0" "$@"', TANDEM,
                               'secondary', p.conf, '--node', 'beta'], capture_output=True, text=True, timeout=pair.SECONDS)
        if 'permission denied' in done.stderr.lower() or 'not permitted' in done.stderr.lower():
            self.skipTest('no mount namespace here: ' + done.stderr.strip())
        self.assertNotEqual(done.returncode, 0)
        self.assertIn('it is not a loopback address and nothing encrypts the link', done.stderr)
        self.assertEqual(done.stderr.count('cannot listen on'), 1, done.stderr)

    def test_unsafe_switch(self):
        p = self.pair('[unsafe]\nplaintext-link = yes\n')
        p.init()
        p.conf.write_text(p.conf.read_text().replace(f'127.0.0.1:{self.port}', f'0.0.0.0:{self.port}'))
        p.start('secondary', 'beta')
        p.wait_state('beta', 'stopped')
        self.assertEqual(json.loads(p.done('status', 'beta', '--json'))['unsafe'], ['plaintext-link'])


if __name__ == '__main__':
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
