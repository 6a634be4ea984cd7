# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two real nodes on this machine, in a directory of their own, for tests of the program and its interface."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

SECONDS = 30  # that anything may take


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Pair:
    def __init__(self, tandem, group='', node='', disks=('vda',), size=1 << 20, tail='', beta='', peer_timeout=60000):
        """group, node, beta: lines for [group], both nodes, and the second node; tail: sections at the end."""
        self.tandem, self.processes, self.logs = tandem, {}, {}
        self.tmp = tempfile.TemporaryDirectory(prefix='tandem.')
        self.dir = pathlib.Path(self.tmp.name)
        self.conf = self.dir / 'vm1.conf'
        # a busy machine is no lost link
        text = f'[group]\nname = vm1\njournal-size = 64M\npeer-timeout-ms = {peer_timeout}\n{group}'
        for name in ('alpha', 'beta'):
            (self.dir / name).mkdir()
            text += f'[node {name}]\nlink = 127.0.0.1:{free_port()}\nstate-dir = {self.dir}/{name}/state\n'
            text += f'run-dir = {self.dir}/{name}/run\n' + node + (beta if name == 'beta' else '')
            for disk in disks:
                path = self.dir / name / f'{disk}.img'
                path.touch()
                os.truncate(path, size)
                text += f'disk.{disk} = {path}\n'
        self.conf.write_text(text + tail, encoding='ascii')

    def run(self, command, node, *options, **more):
        return subprocess.run([self.tandem, command, self.conf, '--node', node, *options], capture_output=True,
                              text=True, timeout=90, **more)

    def done(self, command, node, *options):
        result = self.run(command, node, *options)
        if result.returncode != 0:
            raise AssertionError(f'tandem {command} on {node}: {result.returncode} {result.stderr}')
        return result.stdout

    def init(self):
        for node in ('alpha', 'beta'):
            self.done('init', node)

    def start(self, role, node, *options, env=None):
        self.logs[node] = self.dir / f'{node}.log'
        with open(self.logs[node], 'ab') as log:
            self.processes[node] = subprocess.Popen([self.tandem, role, self.conf, '--node', node, *options], stdout=log,
                                                    stderr=log, stdin=subprocess.DEVNULL, env=env)

    def log(self, node):
        return self.logs[node].read_text(encoding='utf-8', errors='replace')

    def state(self, node):
        result = self.run('status', node, '--json')
        return json.loads(result.stdout)['state'] if result.returncode == 0 else None

    def wait(self, what, condition):
        """Until condition() is true; what: for the message."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            for node, process in self.processes.items():
                if process.poll() not in (None, 0):
                    raise AssertionError(f'node {node} ended ({process.returncode}) before {what}:\n{self.log(node)}')
            time.sleep(0.02)
        raise AssertionError(f'not within {SECONDS} s: {what}\n' + '\n'.join(map(self.log, self.logs)))

    def wait_state(self, node, state):
        self.wait(f'{node} is {state}', lambda: self.state(node) == state)

    def protected(self):
        """Both nodes run, and epochs commit."""
        self.init()
        self.start('secondary', 'beta')
        self.start('primary', 'alpha')
        self.wait_state('alpha', 'protected')
        self.wait_state('beta', 'standby')

    def stop(self, node, sig=signal.SIGTERM):
        process = self.processes[node]
        if process.poll() is None:
            process.send_signal(sig)
        code = process.wait(SECONDS)
        del self.processes[node]
        return code

    def close(self):
        hung = []
        for node in list(self.processes):
            try:
                self.stop(node)
            except subprocess.TimeoutExpired:
                self.stop_hard(node)
                hung.append(node)
        self.tmp.cleanup()
        if hung:
            raise AssertionError(f'did not end at SIGTERM: {hung}')

    def stop_hard(self, node):
        process = self.processes.pop(node, None)
        if process and process.poll() is None:
            process.kill()
            process.wait()

    def control(self, node):
        return Control(self.dir / node / 'run' / 'control.sock')


class Control:
    """One connection to a control socket: messages as dictionaries."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile('rb')
        self.greeting = self.read()

    def read(self):
        line = self.lines.readline()
        return json.loads(line) if line else None

    def send(self, message):
        self.socket.sendall((message if isinstance(message, str) else json.dumps(message)).encode() + b'\n')

    def ask(self, message, descriptors=()):
        """The answer, without the events before it.  descriptors go along."""
        if descriptors:
            socket.send_fds(self.socket, [json.dumps(message).encode() + b'\n'], descriptors)
        else:
            self.send(message)
        while True:
            answer = self.read()
            if answer is None or 'event' not in answer:
                return answer

    def close(self):
        self.lines.close()
        self.socket.close()
