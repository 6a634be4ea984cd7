#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/control.md and a real pair of nodes: what is documented is implemented and the other way round, and each example runs:
its request is sent, and the answer has the members that the document shows, of the same types.

Whoever adds a command documents it with an example, and says below where the example can be run."""
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import time
import unittest

import pair

TEXT = (pathlib.Path(__file__).resolve().parents[2] / 'docs/control.md').read_text(encoding='ascii')

# Where the examples of a command run, in this order; an example may presuppose those before it.
ON_PRIMARY = ['query-commands', 'query-status', 'query-pending', 'events', 'cut', 'verify', 'verify-cancel', 'query-verify', 'grow', 'query-grow',
               'disconnect', 'connect', 'shutdown']
ON_PRIMARY_LAST = ['switchover']  # which ends it
ON_MANUAL_SECONDARY = ['commit', 'discard']
ON_LONELY_SECONDARY = ['resolve', 'promote']
CHECKPOINTS = ['checkpoint-begin', 'submit', 'seal', 'abandon', 'query-memory', 'query-state', 'standby-state', 'release-memory']
# Documented ahead of the code.
NOT_YET = []


class Example:
    def __init__(self, request, answer, guest):
        self.text, self.request, self.guest = answer, json.loads(request), guest
        self.command = self.request['execute']
        self.answer = json.loads(answer.replace(', ...}', ', "...": null}'))


class Section:
    def __init__(self, title, body):
        self.names = re.sub(r' \(.*\)$', '', title).split(', ')
        self.body, self.examples = body, []
        request = answer = None
        for block in re.findall(r'^```\n(.*?)^```', body, re.M | re.S):
            for line in block.splitlines() + ['-> ']:
                line = re.sub(r'\s+\+ fd$', '', line)
                if line.startswith('-> '):
                    if answer:
                        self.examples.append(Example(request, answer, title.endswith('(VM group)')))
                    request, answer = line[3:], None
                elif line.startswith('<- '):
                    answer = line[3:]
                elif answer:
                    answer += ' ' + line.strip()
                elif request and line.startswith(' '):
                    request += ' ' + line.strip()


SECTIONS = [Section(*part) for part in re.findall(r'^### (.*?)\n(.*?)(?=^##|\Z)', TEXT, re.M | re.S)]
DOCUMENTED = {name for section in SECTIONS for name in section.names}
EXAMPLES = {}
for _section in SECTIONS:
    for _example in _section.examples:
        EXAMPLES.setdefault(_example.command, []).append(_example)


def shape(value):
    """Members and types."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value[:1]]
    return type(value).__name__


def with_more(shown, got):
    """Where the document says "...", what else the answer has does not count."""
    if not isinstance(shown, dict) or not isinstance(got, dict):
        return shown, got
    if '...' in shown:
        shown = {k: v for k, v in shown.items() if k != '...'}
        got = {k: v for k, v in got.items() if k in shown}
    both = {k: with_more(shown[k], got[k]) if k in got else (shown[k], None) for k in shown}
    return ({k: v[0] for k, v in both.items()}, {k: both[k][1] if k in both else got[k] for k in got})


class Document(unittest.TestCase):
    def test_each_command_has_an_example(self):
        self.assertGreater(len(DOCUMENTED), 9)
        for name in DOCUMENTED:
            self.assertIn(name, EXAMPLES, f'docs/control.md, {name}: add an example, a line "-> {{...}}" and one "<- {{...}}"')
        self.assertEqual(set(EXAMPLES) - DOCUMENTED, set(), 'examples of commands that have no section')

    def test_each_example_is_run(self):
        places = ON_PRIMARY + ON_PRIMARY_LAST + ON_MANUAL_SECONDARY + ON_LONELY_SECONDARY + CHECKPOINTS + NOT_YET
        self.assertEqual(sorted(EXAMPLES), sorted(places),
                         'say at the top of tests/cli/test_control.py where the examples of a new command run')

    def test_exit_codes_of_kinds(self):
        kinds = re.search(r'`KIND` is one of (.*?) \(', TEXT, re.S)[1]
        self.assertEqual(set(re.findall(r'`(\w+)`', kinds)), {'usage', 'state', 'io', 'peer', 'timeout', 'general'})


class Nodes(unittest.TestCase):
    maxDiff = None

    def pair(self, start=True, **more):
        p = pair.Pair(os.environ['TANDEM'], **more)
        self.addCleanup(p.close)
        if start:
            p.protected()
        return p

    def connect(self, p, node):
        control = p.control(node)
        self.addCleanup(control.close)
        return control

    def run_example(self, control, example, descriptors=(), **arguments):
        """arguments: what must differ from the document, such as the number of an epoch."""
        request = json.loads(json.dumps(example.request))
        if arguments:
            request.setdefault('arguments', {}).update(arguments)
        got = control.ask(request, descriptors)
        shown, seen = with_more(shape(example.answer), shape(got))
        self.assertEqual(shown, seen, f'docs/control.md says\n{example.text}\nthe node said\n{json.dumps(got)}\nto '
                         f'{json.dumps(request)}')
        return got


    def settled(self, control, query):
        end = time.monotonic() + pair.SECONDS
        while control.ask({'execute': query})['return']['state'] == 'running':
            self.assertLess(time.monotonic(), end, query)
            time.sleep(0.02)


class Primary(Nodes):
    def test_examples(self):
        p = self.pair()
        control = self.connect(p, 'alpha')
        for command in ON_PRIMARY:
            if command == 'verify':  # and does not answer before it is cancelled
                p.processes['beta'].send_signal(signal.SIGSTOP)
            elif command == 'query-verify':
                p.processes['beta'].send_signal(signal.SIGCONT)
            elif command == 'grow':
                self.settled(control, 'query-verify')
                for node in ('alpha', 'beta'):
                    os.truncate(p.dir / node / 'vda.img', 2 << 20)
            elif command == 'query-grow':
                self.settled(control, command)
            for example in EXAMPLES[command]:
                self.run_example(control, example)
        self.assertEqual(p.processes['alpha'].wait(pair.SECONDS), 0)
        stopped = p.run('status', 'alpha', '--json')
        self.assertEqual(stopped.returncode, 5)
        self.assertEqual({k: json.loads(stopped.stdout)[k] for k in ('role', 'state')},
                         {'role': 'primary', 'state': 'stopped'}, 'the role is that of the last run')

    def test_examples_of_a_planned_move(self):
        p = self.pair()
        control = self.connect(p, 'alpha')
        for command in ON_PRIMARY_LAST:
            for example in EXAMPLES[command]:
                self.run_example(control, example)
        self.assertEqual(p.processes['alpha'].wait(pair.SECONDS), 0)
        self.assertEqual(json.loads(p.done('status', 'beta', '--json'))['role'], 'primary')

    def test_greeting(self):
        shown = json.loads(re.search(r'^\{"tandem": .*$', TEXT, re.M)[0])
        self.assertEqual(shape(shown), shape(self.connect(self.pair(), 'alpha').greeting))

    def test_documented_is_implemented(self):
        control = self.connect(self.pair(), 'alpha')
        commands = control.ask({'execute': 'query-commands'})['return']['commands']
        self.assertEqual(set(commands) - DOCUMENTED, set(), 'implemented, but there is no "### NAME" in docs/control.md')
        self.assertEqual(set(NOT_YET) & set(commands), set(), 'implemented now: move them from NOT_YET in '
                         'tests/cli/test_control.py to the place where their examples run')
        self.assertEqual(DOCUMENTED - set(commands) - set(NOT_YET), set(), 'docs/control.md, but no node knows them')
        for name, arguments in commands.items():
            text = ''.join(s.body for s in SECTIONS if name in s.names)
            for argument in arguments:
                self.assertRegex(text, f'[`"]{argument}[`"]', f'docs/control.md, {name}: argument "{argument}" is missing')
        for example in (e for name in commands for e in EXAMPLES[name]):
            self.assertEqual(set(example.request.get('arguments', {})) - set(commands[example.command]), set(), example.text)

    def test_members_of_status(self):
        """Each member of the answers of both nodes stands in the table, and those of the table without a condition are there."""
        p = self.pair()
        table = re.search(r'### query-status\n.*?\n\| member.*?\n\n', TEXT, re.S)[0]
        rows = dict(re.findall(r'^\| (`.*?) \| (.*) \|$', table, re.M))
        named = {name for row in rows for name in re.findall(r'`([\w.-]+)`', row)}
        words = {}  # by member: the rows that are about it
        for row, told in rows.items():
            for name in re.findall(r'`([\w.-]+)`', row):
                words.setdefault(name.split('.')[0], []).append(row + told)
        for node in ('alpha', 'beta'):
            status = self.connect(p, node).ask({'execute': 'query-status'})['return']
            for name, value in status.items():
                if not any(n == name or n.startswith(name + '.') for n in named):
                    self.fail(f'docs/control.md, query-status: member "{name}" is missing in the table')
                for inner in value if isinstance(value, dict) and name not in ('disks', 'pending') else ():
                    self.assertRegex(' '.join(words[name]), rf'`({name}\.)?{inner}`',
                                     f'docs/control.md, query-status: "{name}.{inner}" is missing in the table')
            for row, told in rows.items():
                if not re.match(r'(only|secondary:|primary:)', told):
                    for name in re.findall(r'`([\w.-]+)`', row):
                        inner = status
                        for part in name.split('.'):
                            self.assertIn(part, inner, f'docs/control.md, query-status: `{name}` is not in the answer of {node}')
                            inner = inner[part]

    def test_what_is_refused(self):
        control = self.connect(self.pair(), 'alpha')
        for request, desc in (
                ('nonsense', 'this is not JSON: '), ('{}', '"execute" is missing'), ('[]', None),
                ('{"execute": 7}', '"execute" is missing'), ('{"execute": "halt"}', 'unknown command "halt"'),
                ('{"execute": "cut", "now": true}', 'unknown member "now"'),
                ('{"execute": "cut", "arguments": []}', '"arguments" is not an object'),
                ('{"execute": "cut", "arguments": {"now": true}}', 'cut: unknown argument "now"'),
                ('{"execute": "cut", "arguments": {"wait": 1}}', 'cut: argument "wait" is of the wrong type'),
                ('{"execute": "cut", "arguments": {"wait": "long"}}', 'cut: wait is none, received or committed, not "long"')):
            answer = control.ask(request)
            self.assertEqual(answer['error']['kind'], 'usage', request)
            self.assertTrue(desc is None or answer['error']['desc'].startswith(desc), answer)
        self.assertEqual(control.ask({'execute': 'query-status'})['return']['state'], 'protected')

    def test_too_long_a_line_ends_the_connection(self):
        p = self.pair()
        control = self.connect(p, 'alpha')
        with self.assertRaises((ConnectionError, AssertionError)):
            control.send('x' * (2 << 20))
            self.assertIsNotNone(control.read())
        self.assertEqual(p.state('alpha'), 'protected')


class Events(Nodes):
    SHOWN = {m['event']: m for m in map(json.loads, re.findall(r'^\{"event": .*\}$', TEXT, re.M))}
    OF_INGEST = {'JOURNAL_FULL'}  # tests/scenario/ingest_limits.py
    OF_VM_GROUPS = {'SESSION', 'DISKS_IN_SYNC', 'CHECKPOINT_DUE', 'CHECKPOINT_COMPARED'}

    def subscribe(self, p, node):
        control = self.connect(p, node)
        control.send({'execute': 'events', 'arguments': {'enable': True}})
        return control

    def until(self, control, name, **data):
        """Reads on to an event of this name and data, and compares it with the document."""
        while True:
            message = control.read()
            self.assertIsNotNone(message, f'the connection ended before {name}')
            if message.get('event') == name and data.items() <= message['data'].items():
                self.assertEqual(shape(message), shape(self.SHOWN[name]), name)
                return message['data']

    def test_of_a_guest(self):
        """A whole checkpoint, one that fails, and what the secondary then has."""
        p = self.pair(disks=('vda',), size=32 << 20, tail='[guest]\nmemory = 1M\n', start=False,
                      peer_timeout=5000)
        p.init()
        p.start('primary', 'alpha', '--guest')
        p.wait_state('alpha', 'solo')
        primary = self.subscribe(p, 'alpha')
        p.start('secondary', 'beta', '--guest')
        self.until(primary, 'SESSION', connected=True)
        self.until(primary, 'DISKS_IN_SYNC')
        memory = os.memfd_create('checkpoint')
        self.addCleanup(os.close, memory)
        os.pwrite(memory, struct.pack('<3Q', 8192, 4096, 4096), 0)  # one run, whose bytes begin at 4096
        os.pwrite(memory, b'page'.ljust(4096, b'.') + b'state', 4096)

        def one(command, **more):
            example = [e for e in EXAMPLES[command] if e.guest or command not in ON_LONELY_SECONDARY][0]
            return self.run_example(more.pop('control', primary), example, **more)['return']
        epoch = one('checkpoint-begin')['epoch']
        self.assertEqual(primary.ask({'execute': 'cut'})['return'], {'epoch': epoch})
        sizes = {'runs': 1, 'state-bytes': 5, 'state-data': 8192}
        self.assertEqual(one('submit', descriptors=[memory], epoch=epoch, **sizes)['bytes'], 4096 + 5)
        one('seal', epoch=epoch)
        secondary = self.connect(p, 'beta')
        self.assertEqual(one('query-memory', control=secondary), {'size': 1 << 20, 'epoch': epoch})
        self.assertEqual(one('query-state', control=secondary), {'bytes': 5, 'epoch': epoch})
        one('standby-state', control=secondary)
        unready = EXAMPLES['standby-state'][0].request['arguments']['unready']
        p.wait('alpha is told', lambda: json.loads(p.done('status', 'alpha', '--json'))['checkpoint']['unready'] == unready)
        self.assertIn('has no QEMU that could take the guest: ' + unready, p.done('status', 'alpha'))
        secondary.ask({'execute': 'standby-state'})
        p.wait('and that it is over', lambda: not json.loads(p.done('status', 'alpha', '--json'))['checkpoint']['unready'])
        # digests that cannot be right: the secondary says what differs, and nothing else happens
        os.pwrite(memory, bytes(32), 12288)
        epoch = primary.ask({'execute': 'cut'})['return']['epoch']
        request = {'execute': 'submit', 'arguments': {'epoch': epoch, **sizes, 'digests': 1, 'digest-data': 12288}}
        self.assertEqual(primary.ask(request, [memory])['error']['kind'], 'usage')
        request['arguments']['digests'] = 2
        self.assertIn('return', primary.ask(request, [memory]))
        primary.ask({'execute': 'seal'})
        self.assertEqual(self.until(primary, 'CHECKPOINT_COMPARED'), {
            'epoch': epoch, 'bytes': (1 << 20) + 5, 'differ': (1 << 20) + 5,
            'ranges': [{'volume': 'ram', 'offset': 0, 'length': 1 << 20}, {'volume': 'state', 'offset': 0, 'length': 5}]})
        one('checkpoint-begin')
        epoch = primary.ask({'execute': 'cut'})['return']['epoch']
        self.assertEqual(one('abandon', epoch=epoch), {'epoch': epoch, 'into': epoch + 1})
        self.members_of_checkpoint(primary, secondary)
        # Who writes on without a checkpoint has to wait for one, but not for ever: replication ends before.
        begun = time.monotonic()
        subprocess.run(['qemu-io', '-f', 'raw', '-c', 'write 0 20M',
                        f'nbd+unix:///vda?socket={p.dir}/alpha/run/nbd.sock'], stdout=subprocess.DEVNULL, check=True)
        self.assertGreaterEqual(time.monotonic() - begun, 5)
        self.until(primary, 'CHECKPOINT_DUE')
        self.assertIn('no checkpoint was made in time', self.until(primary, 'STATE', state='solo')['reason'])
        self.until(primary, 'SESSION', connected=True)  # it is tried again
        p.stop_hard('alpha')
        p.wait('beta has noticed', lambda: not json.loads(p.done('status', 'beta', '--json'))['link']['connected'])
        self.assertEqual(one('promote', control=secondary)['memory']['state-bytes'], 5)
        one('release-memory', control=secondary)
        self.assertEqual(secondary.ask({'execute': 'query-memory'})['error']['kind'], 'state')

    def members_of_checkpoint(self, *nodes):
        table = re.search(r'\n\| member of `checkpoint`.*?\n\n', TEXT, re.S)[0]
        rows = re.findall(r'^\| `([\w-]+)` \|', table, re.M)
        got = {name for node in nodes for name in node.ask({'execute': 'query-status'})['return']['checkpoint']}
        self.assertEqual(got, set(rows), 'docs/control.md, the table of `checkpoint`, and the answers of both nodes')

    def test_all_are_tested(self):
        self.assertEqual(set(self.SHOWN), {'STATE', 'EPOCH_COMMITTED', 'EPOCH_DISCARDED', 'SYNC_COMPLETED'} | self.OF_VM_GROUPS | self.OF_INGEST)

    def test_none_without_asking(self):
        p = self.pair()
        control = self.connect(p, 'alpha')
        p.done('cut', 'alpha', '--wait')
        control.send({'execute': 'query-pending'})
        self.assertIn('return', control.read())

    def test_of_both_sides(self):
        p = self.pair()
        primary, secondary = self.subscribe(p, 'alpha'), self.subscribe(p, 'beta')
        self.until(primary, 'STATE', state='protected', role='primary', reason='')
        self.until(secondary, 'STATE', state='standby', role='secondary')
        epoch = int(re.search(r'\d+', p.done('cut', 'alpha', '--wait'))[0])
        for control in (primary, secondary):
            while self.until(control, 'EPOCH_COMMITTED')['epoch'] < epoch:
                pass
        p.done('disconnect', 'alpha')
        self.until(primary, 'STATE', state='solo')
        p.done('connect', 'alpha')
        self.until(primary, 'STATE', state='protected')
        for control in (primary, secondary):  # which was, and stayed, standby
            self.until(control, 'SYNC_COMPLETED')

    def test_discard(self):
        p = self.pair(group='commit-policy = manual\nepoch-ms = 0\n')
        secondary = self.subscribe(p, 'beta')
        epoch = int(re.search(r'\d+', p.done('cut', 'alpha', '--wait=received'))[0])
        p.done('discard', 'beta')
        self.assertGreaterEqual(self.until(secondary, 'EPOCH_DISCARDED')['epoch'], epoch)


class Secondary(Nodes):
    def test_examples_of_a_controller(self):
        p = self.pair(group='commit-policy = manual\nepoch-ms = 0\n')
        control = self.connect(p, 'beta')
        for command in ON_MANUAL_SECONDARY:
            for example in EXAMPLES[command]:
                epoch = int(re.search(r'\d+', p.done('cut', 'alpha', '--wait=received'))[0])
                given = 'epoch' in example.request.get('arguments', {})
                self.run_example(control, example, **({'epoch': epoch} if given else {}))

    def test_examples_of_a_failover(self):
        p = self.pair()
        p.stop_hard('alpha')
        p.wait('beta has noticed', lambda: not json.loads(p.done('status', 'beta', '--json'))['link']['connected'])
        for command in ON_LONELY_SECONDARY:
            for example in EXAMPLES[command]:
                if not example.guest:
                    self.run_example(self.connect(p, 'beta'), example)
                if command == 'resolve':  # taken back, for what follows
                    self.connect(p, 'beta').ask({'execute': 'resolve', 'arguments': {'yield': False}})


if __name__ == '__main__':
    unittest.main()
