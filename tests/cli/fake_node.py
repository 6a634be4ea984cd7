# SPDX-License-Identifier: LGPL-2.1-or-later
"""A node that says what a test wants: a control socket, answers by command, and everything that a real node never does."""
import json
import os
import pathlib
import pty
import select
import socket
import subprocess
import tempfile
import threading
import time
import unittest

TANDEM = os.environ['TANDEM']
SECONDS = 30  # that anything may take
CONF = '''[group]
name = vm1
[node alpha]
link = 127.0.0.1:7800
state-dir = {dir}/state
run-dir = {dir}/run
disk.vda = {dir}/vda.img
[node beta]
link = 127.0.0.1:7801
state-dir = {dir}/beta/state
run-dir = {dir}/beta/run
disk.vda = {dir}/beta.img
'''
GREETING = {'tandem': {'version': '0.1.0', 'control': 1, 'group': 'vm1', 'node': 'alpha'}}
STATUS = {
    'group': 'vm1', 'node': 'alpha', 'role': 'primary', 'state': 'protected', 'reason': '', 'generation': 3,
    'epoch': {'open': 19, 'received': 18, 'committed': 17}, 'lag': {'bytes': 8192, 'epochs': 2, 'ms': 53},
    'pending': {'replicating': True, 'not-received': {'bytes': 4096, 'requests': 1, 'epochs': 1},
                'not-committed': {'bytes': 8192, 'requests': 2, 'epochs': 2}},
    'disks': {'vda': {'size': 1 << 30, 'dirty': None}}, 'link': {'connected': True, 'peer': '10.0.0.2:7800',
                                                                'tls': True, 'heard-ms': 12},
    'unsafe': [], 'version': '0.1.0'}


def status(**changes):
    return {**json.loads(json.dumps(STATUS)), **changes}


class FakeNode:
    """answers: by command, what "return" holds, or a function of (node, connection, request) that gives the whole message,
    bytes, or None for no answer. `requests` keeps what was asked."""

    def __init__(self, run_dir, answers=None, greeting=GREETING, name='control.sock'):
        self.path = pathlib.Path(run_dir) / name
        self.path.parent.mkdir(exist_ok=True)
        self.answers, self.greeting, self.requests, self.connections = answers or {}, greeting, [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(8)
        self.threads = []
        self.thread(self.accept)

    def thread(self, target, *args):
        self.threads.append(threading.Thread(target=target, args=args, daemon=True))
        self.threads[-1].start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.thread(self.serve, connection)

    def serve(self, connection):
        try:
            if self.greeting is not None:
                self.send(connection, self.greeting)
            with connection.makefile('rb') as lines:
                for line in lines:
                    self.take(connection, json.loads(line))
        except (OSError, ValueError):
            pass  # the program has gone, or the test has

    def take(self, connection, request):
        self.requests.append(request)
        answer = self.answers.get(request['execute'], {})
        if callable(answer):
            answer = answer(self, connection, request)
        else:
            answer = {'return': answer, 'id': request['id']}
        if answer is not None:
            self.send(connection, answer)

    @staticmethod
    def send(connection, message):
        connection.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b'\n')

    def event(self, name, **data):
        for connection in self.connections:
            try:
                self.send(connection, {'event': name, 'data': data})
            except OSError:
                pass

    def close(self):
        """All of it ends, as with the process of a node.  May be called again."""
        if self.listener.fileno() < 0:
            return
        self.path.unlink()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join()  # from here on there are no new connections
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join()
        for connection in (self.listener, *self.connections):
            connection.close()


def error(kind, desc):
    return lambda node, connection, request: {'error': {'kind': kind, 'desc': desc}, 'id': request['id']}


exit_codes = set()  # that tests have seen


class Case(unittest.TestCase):
    """A directory with a configuration, and the program."""
    maxDiff = None

    def setUp(self):
        tmp = tempfile.TemporaryDirectory(prefix='tandem.')
        self.addCleanup(tmp.cleanup)
        self.dir = pathlib.Path(tmp.name)
        self.conf = self.dir / 'vm1.conf'
        self.conf.write_text(CONF.format(dir=self.dir), encoding='ascii')
        self.socket = self.dir / 'run/control.sock'

    def node(self, answers=None, **more):
        node = FakeNode(self.dir / 'run', answers, **more)
        self.addCleanup(node.close)
        return node

    def start(self, command, *options, conf=None, stdout=subprocess.PIPE, node='alpha', **more):
        process = subprocess.Popen([TANDEM, command, conf or self.conf, *(['--node', node] if node else []), *options],
                                   stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, **more)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
        process.communicate()

    def run_it(self, command, *options, **more):
        process = self.start(command, *options, **more)
        out, err = process.communicate(timeout=SECONDS)
        return process.returncode, out, err

    def check(self, process, code, out, err=''):
        """Ends with this code and exactly these texts."""
        got_out, got_err = process.communicate(timeout=SECONDS)
        self.assertEqual((process.returncode, got_out, got_err), (code, out, err))
        exit_codes.add(code)

    def good(self, out, command, *options):
        self.check(self.start(command, *options), 0, out)

    def bad(self, code, message, command, *options, **more):
        """Fails with this code, and one line on standard error."""
        self.check(self.start(command, *options, **more), code, '', f'tandem: {message}\n')

    def until(self, what, condition):
        end = time.monotonic() + SECONDS
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.005)


class Terminal:
    """The program's standard output on a pseudo-terminal."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        self.text = ''

    def until(self, condition):
        """Reads on until condition(text)."""
        end = time.monotonic() + SECONDS
        while not condition(self.text):
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f'not within {SECONDS} s; the terminal shows {self.text!r}')
            self.text += os.read(self.master, 65536).decode()

    def close(self):
        os.close(self.master)
        os.close(self.slave)
