# SPDX-License-Identifier: LGPL-2.1-or-later
"""tandem status and pending: what people and programs read, once and as a watch."""
import fcntl
import json
import signal
import socket
import struct
import termios

from fake_node import Case, FakeNode, Terminal, error, status

NOT_RUNNING = 'node alpha of group vm1 is not running: there is no socket {socket}'
NOT_INITIALISED = 'it is not initialised: there is no {dir}/state/group.meta; run tandem init first'
TIME = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d '


def text_of(*rows, head):
    return head + '\n' + ''.join(f'  {label:<12} {text}\n' for label, text in rows)


class Text(Case):
    def show(self, answer, *rows, head):
        self.node({'query-status': answer})
        self.good(text_of(*rows, head=head), 'status')

    def test_protected_primary(self):
        self.show(status(), ('generation', '3'), ('epoch', 'committed 17, received 18, open 19'),
                  ('lag', '8.0 KiB, 2 epochs, 53 ms'), ('not received', '4.0 KiB in 1 request, 1 epoch'),
                  ('uncommitted', '8.0 KiB in 2 requests, 2 epochs'), ('disk vda', '1.0 GiB'),
                  ('link', 'connected to 10.0.0.2:7800, TLS, peer heard 12 ms ago'), ('version', '0.1.0'),
                  head='vm1 on node alpha: primary, protected (epochs are committing on the secondary)')

    def test_solo_primary(self):
        self.show({'group': 'vm1', 'node': 'alpha', 'role': 'primary', 'state': 'solo', 'reason': 'link lost: reset',
                   'generation': 0, 'pending': {'replicating': False}, 'lag': {'bytes': 0, 'epochs': 0, 'ms': 0},
                   'disks': {'vda': {'size': 4096, 'dirty': 65536}, 'b': {'size': 1 << 40, 'dirty': 0}},
                   'link': {'connected': False, 'peer': '10.0.0.2:7800', 'tls': False, 'heard-ms': -1},
                   'unsafe': ['plaintext-link', 'commit']},
                  ('reason', 'link lost: reset'), ('generation', '0 (none yet)'),
                  ('disk vda', '4.0 KiB, 64.0 KiB not known to be equal on the peer'),
                  ('disk b', '1.0 TiB, 0 B not known to be equal on the peer'),
                  ('link', 'not connected, last to 10.0.0.2:7800, peer heard never'), ('UNSAFE', 'PLAINTEXT-LINK, COMMIT'),
                  head='vm1 on node alpha: primary, solo (runs alone, nothing is replicated)')

    def test_syncing_primary(self):
        self.show({'group': 'vm1', 'node': 'alpha', 'role': 'primary', 'state': 'syncing', 'reason': '',
                   'sync': {'done': 512 << 20, 'total': 2 << 30, 'rate': 100 << 20, 'eta': 15, 'sent': 1 << 20,
                            'kind': 'clones'}},
                  ('sync', '512.0 MiB of 2.0 GiB (25.0 %), 100.0 MiB/s, 15 s left; 1.0 MiB sent; into clones: the secondary '
                   'keeps its state until it commits'),
                  head='vm1 on node alpha: primary, syncing (the secondary is being brought up to date and cannot '
                       'take over yet)')

    def test_syncing_secondary(self):
        """It does not know the rate, and does not say "0 B/s"."""
        self.show({'group': 'vm1', 'node': 'alpha', 'role': 'secondary', 'state': 'syncing', 'reason': '',
                   'sync': {'done': 0, 'total': 0, 'rate': 0, 'eta': -1, 'sent': 0},
                   'journal': {'size': 64 << 20, 'used': 4096, 'staged': 512}},
                  ('sync', '0 B of 0 B (100.0 %); 0 B sent'),
                  ('journal', '64.0 MiB, 4.0 KiB used; 512 B staged in memory'),
                  head='vm1 on node alpha: secondary, syncing (is being brought up to date, cannot be promoted)')

    def test_verify(self):
        self.show({'group': 'vm1', 'node': 'alpha', 'role': 'primary', 'state': 'protected', 'reason': '',
                   'verify': {'done': 1 << 30, 'total': 4 << 30, 'rate': 1 << 30, 'eta': 3}},
                  ('verify', '1.0 GiB of 4.0 GiB (25.0 %), 1.0 GiB/s, 3 s left'),
                  head='vm1 on node alpha: primary, protected (epochs are committing on the secondary)')

    def test_guest(self):
        """Of the agent's answer, beside the node's; a node whose agent does not answer is shown without."""
        asked = status(disks={}, link=None, version=None)
        rows = [('generation', '3'), ('epoch', 'committed 17, received 18, open 19'), ('lag', '8.0 KiB, 2 epochs, 53 ms'),
                ('not received', '4.0 KiB in 1 request, 1 epoch'), ('uncommitted', '8.0 KiB in 2 requests, 2 epochs')]
        head = 'vm1 on node alpha: primary, protected (epochs are committing on the secondary)'
        self.show(asked, *rows, head=head)
        self.conf.write_text(self.conf.read_text(encoding='ascii') + '[guest]\nmemory = 64M\n', encoding='ascii')
        self.good(text_of(*rows, head=head), 'status')
        guest = {'running': True, 'ready': False, 'unready': '', 'phase': 'protected', 'lag-ms': 52, 'slowed': 0, 'machine': 'pc'}
        agent = self.node({'query-guest': lambda node, connection, request: {'return': guest, 'id': request['id']}}, name='agent.sock')
        for change, text in (({}, 'protected, newest committed checkpoint 52 ms old'),
                             ({'slowed': 40}, 'protected, newest committed checkpoint 52 ms old; slowed by 40 %'),
                             ({'phase': 'solo', 'lag-ms': None, 'slowed': 0}, 'solo'),
                             ({'running': False}, 'does not run here'),
                             ({'unready': 'vCPUs: the guest has 1'},
                              'does not run here; no QEMU is ready for a promotion: vCPUs: the guest has 1'),
                             ({'unready': '', 'ready': True}, 'does not run here; QEMU is ready for a promotion')):
            guest.update(change)
            self.good(text_of(*rows, ('guest', text), head=head), 'status')
        code, out, _ = self.run_it('status', '--json')
        self.assertEqual((code, json.loads(out)['guest']),
                         (0, {'running': False, 'ready': True, 'unready': '', 'phase': 'solo', 'lag-ms': None, 'slowed': 0}))
        self.assertEqual(agent.requests[0]['execute'], 'query-guest')

    def test_other_states(self):
        for role, state, words in (
                ('primary', 'failed', ' (does not serve writes)'),
                ('secondary', 'standby', ' (holds a committed state, can be promoted)'),
                ('secondary', 'stopped', ' (has no committed state, and no sync runs)'),
                ('secondary', 'failed', ' (commits have stopped, the last committed state is kept)'),
                ('secondary', 'of-a-later-version', '')):
            with self.subTest(role=role, state=state):
                node = self.node({'query-status': status(role=role, state=state)})
                code, out, err = self.run_it('status')
                self.assertEqual((code, err), (0, ''))
                self.assertEqual(out.splitlines()[0], f'vm1 on node alpha: {role}, {state}{words}')
                node.close()

    def test_times_left(self):
        for eta, words in ((0, '0 s'), (59, '59 s'), (60, '1 min 0 s'), (3599, '59 min 59 s'), (7500, '2 h 5 min'),
                           (-1, 'unknown')):
            node = self.node({'query-status': {'sync': {'done': 1, 'total': 3, 'rate': 1, 'eta': eta}}})
            left = 'time left unknown' if eta < 0 else f'{words} left'
            self.assertIn(f'1 B of 3 B (33.3 %), 1 B/s, {left};', self.run_it('status')[1])
            node.close()

    def test_empty_answer(self):
        self.show({}, head='? on node ?: ?, ?')

    def test_nothing_commands_the_terminal(self):
        self.show({'group': 'v\x1b[2J', 'node': 'a', 'role': 'primary', 'state': 'solo', 'reason': 'a\nb\x9bc\x7f'},
                  ('reason', 'a?b??c?'), head='v?[2J on node a: primary, solo (runs alone, nothing is replicated)')

    def test_json_is_passed_through(self):
        answer = status(extra={'of': ['a', 'later', 'version', 1.5, None]})
        self.node({'query-status': answer})
        code, out, err = self.run_it('status', '--json')
        self.assertEqual((code, json.loads(out), err), (0, answer, ''))

    def test_pending(self):
        self.node({'query-pending': status()['pending']})
        self.good('not received   4.0 KiB in 1 request, 1 epoch\n'
                  'not committed  8.0 KiB in 2 requests, 2 epochs\n', 'pending')
        self.assertEqual(json.loads(self.run_it('pending', '--json')[1]), status()['pending'])

    def test_pending_of_a_solo_primary(self):
        self.node({'query-pending': {'replicating': False}})
        self.good('not replicating: nothing is queued; `tandem status` tells how far the disks differ\n', 'pending')

    def test_pending_incomplete(self):
        self.node({'query-pending': {'not-received': {}}})
        self.bad(1, 'node alpha: pending: its answer lacks not-received', 'pending')


class Stopped(Case):
    """No node runs: an answer on standard output, and exit code 5."""

    def stopped(self, reason):
        self.check(self.start('status'), 5, text_of(('reason', reason), head='vm1 on node alpha: stopped (no node runs)'))
        code, out, err = self.run_it('status', '--json')
        self.assertEqual((code, err), (5, ''))
        self.assertEqual(json.loads(out), {'group': 'vm1', 'node': 'alpha', 'role': 'secondary', 'state': 'stopped',
                                           'reason': reason})

    def test_not_initialised(self):
        self.stopped(NOT_INITIALISED.format(dir=self.dir))

    def test_initialised(self):
        (self.dir / 'vda.img').write_bytes(bytes(4096))
        self.good(f'node alpha of group vm1 is initialised in {self.dir}/state\n', 'init')
        self.stopped(NOT_RUNNING.format(socket=self.socket))

    def test_socket_of_a_killed_node(self):
        (self.dir / 'state').mkdir()
        (self.dir / 'state/group.meta').write_bytes(b'')  # unreadable metadata is no fault of status
        (self.dir / 'run').mkdir()
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(self.socket))
        self.stopped(f'node alpha of group vm1 is not running: nobody listens on {self.socket}')

    def test_a_full_standard_output(self):
        with open('/dev/full', 'w', encoding='ascii') as full:
            self.check(self.start('status', stdout=full), 6, None,
                       'tandem: cannot write to standard output: No space left on device\n')


class Watch(Case):
    def watch(self, *options, **more):
        return self.start('status', '--watch', *options, **more)

    def interrupt(self, process):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        self.assertEqual((process.returncode, err), (-signal.SIGINT, ''))
        return out

    def test_pipe(self):
        """Plain lines with the time of day, one a look, and at once when the state changes."""
        node = self.node({'query-status': status(), 'events': {}})
        process = self.watch('--interval', '3600')
        line = process.stdout.readline()
        self.assertRegex(line, f'^{TIME}vm1/alpha primary protected, committed 17, lag 8.0 KiB 53 ms\n$')
        node.answers['query-status'] = status(state='solo', reason='link lost')
        node.event('EPOCH_COMMITTED', epoch=18)  # no change of the state
        node.event('STATE', state='solo')
        self.assertRegex(process.stdout.readline(), f'^{TIME}vm1/alpha primary solo, .*, link lost\n$')
        self.assertEqual([r['execute'] for r in node.requests], ['events', 'query-status', 'query-status'])
        self.assertEqual(node.requests[0]['arguments'], {'enable': True})
        self.assertEqual(self.interrupt(process), '')

    def test_progress_lines(self):
        steps = iter([dict(done=1 << 20, total=4 << 20, rate=1 << 20, eta=3), dict(done=4 << 20, total=4 << 20,
                                                                                 rate=2 << 20, eta=-1)])
        self.node({'query-status': lambda node, connection, request: {
            'return': status(state='syncing', sync=next(steps, dict(done=0, total=1)), verify=dict(done=1, total=2)),
            'id': request['id']}})
        process = self.watch('--interval', '0.1')
        self.assertIn(', sync 1.0 MiB of 4.0 MiB (25.0 %), 1.0 MiB/s, 3 s left, verify 1 B of 2 B (50.0 %)\n', process.stdout.readline())
        self.assertIn(', sync 4.0 MiB of 4.0 MiB (100.0 %), 2.0 MiB/s, time left unknown, verify ', process.stdout.readline())
        self.interrupt(process)

    def test_json_lines(self):
        self.node({'query-status': status()})
        process = self.watch('--json', '--interval', '0.1')
        for _ in range(2):
            self.assertEqual(json.loads(process.stdout.readline()), status())
        self.interrupt(process)

    def test_a_node_goes_and_comes_back(self):
        node = self.node({'query-status': status()})
        process = self.watch('--interval', '0.1')
        self.assertIn('protected', process.stdout.readline())
        node.close()
        line = process.stdout.readline()
        while 'protected' in line:
            line = process.stdout.readline()
        self.assertRegex(line, f'^{TIME}vm1/alpha secondary stopped, it is not initialised')
        self.node({'query-status': status(state='syncing')})
        while 'stopped' in line:
            line = process.stdout.readline()
        self.assertIn('vm1/alpha primary syncing', line)
        self.interrupt(process)

    def test_terminal(self):
        """In place: home, each line cleared to its end, nothing below; no cursor is hidden that an interrupt would lose."""
        terminal = Terminal()
        self.addCleanup(terminal.close)
        node = self.node({'query-status': status(state='syncing', sync=dict(done=1, total=2, rate=1, eta=1))})
        process = self.watch('--interval', '0.1', stdout=terminal.slave)
        terminal.until(lambda text: text.count('\033[J') >= 3)
        self.assertTrue(terminal.text.startswith('\033[H\033[J\033[Hvm1 on node alpha: primary, syncing'), terminal.text)
        frames = terminal.text.replace('\r', '').split('\033[H')[2:-1]
        for frame in frames:
            self.assertIn('sync         1 B of 2 B (50.0 %), 1 B/s, 1 s left; ? sent\033[K\n', frame)
            self.assertRegex(frame, r'^([^\n]*\033\[K\n)+\033\[J$')
        node.answers['query-status'] = status()
        terminal.until(lambda text: 'primary, protected' in text)
        self.assertNotIn('\033[?25l', terminal.text)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(30), -signal.SIGINT)

    def test_small_terminal(self):
        """The first lines, as many as it has rows for, wrapped ones counted; it never scrolls."""
        for rows, columns, lines in ((5, 100, 4), (6, 40, 3), (3, 20, 1), (24, 80, 9)):
            terminal = Terminal()
            self.addCleanup(terminal.close)
            fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
            node = self.node({'query-status': status()})
            process = self.watch('--interval', '0.1', stdout=terminal.slave)
            terminal.until(lambda text, t=terminal: text.count('\033[J') >= 3)
            process.send_signal(signal.SIGINT)
            process.wait(30)
            node.close()
            frame = terminal.text.replace('\r', '').split('\033[H')[2]
            self.assertTrue(frame.startswith('vm1 on node alpha: primary, protected'), frame)
            self.assertEqual(frame.count('\n'), lines, (rows, columns, frame))
            self.assertEqual(frame.endswith('\n...\033[J'), lines < 9, frame)
            text = frame.replace('\033[K', '').replace('\033[J', '').split('\n')[:-1]
            if lines > 1:
                self.assertLess(sum(max(1, -(-len(line) // columns)) for line in text), rows)

    def test_a_reader_that_goes_away(self):
        self.node({'query-status': status()})
        process = self.watch('--interval', '0.1')
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(30), -signal.SIGPIPE)
        self.assertEqual(process.stderr.read(), '')
        process.stdout = None

    def test_an_error_ends_it(self):
        self.node({'query-status': error('general', 'no')})
        self.bad(1, 'node alpha: query-status: no', 'status', '--watch')

    def test_another_group_ends_it(self):
        node = FakeNode(self.dir / 'run', greeting={'tandem': {'control': 1, 'group': 'vm2', 'node': 'alpha'}})
        self.addCleanup(node.close)
        self.bad(1, f'node alpha of group vm1: on {self.socket} answers node alpha of group vm2', 'status', '--watch')
