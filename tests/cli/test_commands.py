# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands that ask a running node for something: what is sent, and what is printed of the answer."""
import os
import socket
import subprocess
import threading

from fake_node import Case, error


class Requests(Case):
    def ask(self, answers, out, command, *options, request):
        """The command sends exactly this request, and prints this."""
        node = self.node(answers)
        self.good(out, command, *options)
        self.assertEqual([{k: v for k, v in r.items() if k != 'id'} for r in node.requests], [request])
        node.close()

    def test_cut(self):
        answer = {'cut': {'epoch': 17}}
        self.ask(answer, 'epoch 17 is ended\n', 'cut', request={'execute': 'cut'})
        for option, wait, done in (('--wait', 'committed', 'committed'), ('--wait=received', 'received', 'received'),
                                   ('--wait=committed', 'committed', 'committed')):
            self.ask(answer, f'epoch 17 is {done}\n', 'cut', option,
                     request={'execute': 'cut', 'arguments': {'wait': wait, 'timeout-ms': 30000}})
        self.ask(answer, 'epoch 17 is committed\n', 'cut', '--wait', '--timeout', '0.25',
                 request={'execute': 'cut', 'arguments': {'wait': 'committed', 'timeout-ms': 250}})

    def test_commit(self):
        self.ask({'commit': {'epoch': 9}}, 'epoch 9 is committed\n', 'commit', request={'execute': 'commit'})
        self.ask({'commit': {'epoch': 8}}, 'epoch 8 is committed\n', 'commit', '--epoch', '8',
                 request={'execute': 'commit', 'arguments': {'epoch': 8}})

    def test_discard(self):
        self.ask({'discard': {'epochs': 1, 'bytes': 65536, 'committed': 17}},
                 'discarded 1 epoch (64.0 KiB); the committed state is epoch 17\n', 'discard',
                 request={'execute': 'discard'})

    def test_verify(self):
        found = [{'disk': 'vda', 'offset': 65536, 'length': 131072}]
        last = {'state': 'done', 'repair': False, 'done': 1 << 20, 'total': 1 << 20, 'rate': 1, 'eta': 0, 'differ': 0,
                'repaired': 0, 'unsettled': 0, 'more': False, 'ranges': [], 'reason': ''}
        differs, named = dict(last, differ=131072, ranges=found), 'disk vda differs: offset 65536, length 131072\n'
        marked = 'they are marked to be copied at the next connection, or now with --repair'
        sent = 'they were sent again, and are committed'
        for answer, options, code, out, err in (
                (last, (), 0, 'the disks (1.0 MiB) are equal on both nodes\n', ''),
                (differs, (), 10, named, f'tandem: the disks differ in blocks of 131072 bytes; {marked}\n'),
                (dict(differs, repair=True), ('--repair',), 10, named,
                 f'tandem: the disks differ in blocks of 131072 bytes; {sent}\n'),
                (dict(differs, state='failed', reason='the link was lost'), (), 7, named,
                 'tandem: verify ended early: the link was lost\n'),
                (dict(last, done=0, unsettled=1 << 20), (), 0, '1048576 bytes were written to each time they were asked about, '
                 'and are not compared\nthe rest (0 B) is equal on both nodes\n', '')):
            running = iter([dict(last, state='running', done=0)])
            node = self.node({'verify': {}, 'query-verify': lambda node, connection, request, a=answer, running=running:
                              {'return': next(running, a), 'id': request['id']}})
            self.check(self.start('verify', *options), code, out, err)
            self.assertEqual([(r['execute'], r.get('arguments')) for r in node.requests],
                             [('verify', {'repair': bool(options)})] + 2 * [('query-verify', None)])
            node.close()

    def test_verify_cancel(self):
        self.ask({'verify-cancel': {}}, 'the comparison of the disks is cancelled\n', 'verify', '--cancel',
                 request={'execute': 'verify-cancel'})
        self.bad(2, '--cancel goes without --repair', 'verify', '--cancel', '--repair')

    def test_grow(self):
        last = {'state': 'done', 'done': 4096, 'total': 4096, 'disks': {'vda': {'from': 4096, 'to': 8192}}, 'reason': '', 'kind': ''}
        said = 'disk vda has grown from 4096 to 8192 bytes\n'
        why = "disk vda: it has 4096 bytes on the secondary and would have 8192 here: enlarge it there first"
        for answer, options, arguments, code, out, err in (
                (last, (), {'alone': False}, 0,
                 said + 'clients that connect from now on see it; for those of before see tandem(1)\n', ''),
                (dict(last, disks={}, state='failed', reason=why, kind='state'), ('--disk', 'vda'), {'alone': False, 'disk': 'vda'},
                 4, '', f'tandem: grow: {why}\n'),
                (dict(last, state='failed', reason='gone', kind='peer'), ('--alone',), {'alone': True}, 7, said, 'tandem: grow: gone\n')):
            running = iter([dict(last, state='running', done=0)])
            node = self.node({'grow': {}, 'query-grow': lambda node, connection, request, a=answer, running=running:
                              {'return': next(running, a), 'id': request['id']}})
            self.check(self.start('grow', *options), code, out, err)
            self.assertEqual([(r['execute'], r.get('arguments')) for r in node.requests],
                             [('grow', arguments)] + 2 * [('query-grow', None)])
            node.close()

    def test_promote(self):
        answer = {'promote': {'epoch': 17, 'generation': 2, 'discarded': {'epochs': 0, 'bytes': 0}}}
        out = 'node alpha is promoted at epoch 17, generation 2; discarded 0 epochs (0 B)\n'
        self.ask(answer, out, 'promote', request={'execute': 'promote'})
        self.ask(answer, out, 'promote', '--force', request={'execute': 'promote', 'arguments': {'force': True}})

    def test_link(self):
        self.ask({}, 'node alpha: the link is allowed\n', 'connect', request={'execute': 'connect'})
        self.ask({}, 'node alpha: the link is closed, and stays closed until `connect`\n', 'disconnect',
                 request={'execute': 'disconnect'})

    def test_incomplete_answers(self):
        for command, answer, lacks in (('cut', {}, 'epoch'), ('commit', {'epoch': 'x'}, 'epoch'),
                                       ('discard', {'epochs': 1}, 'bytes'), ('discard', {'epochs': 1, 'bytes': -1}, 'bytes'),
                                       ('promote', {'epoch': 1, 'generation': 1}, 'discarded.epochs')):
            node = self.node({command: answer})
            self.bad(1, f'node alpha: {command}: its answer lacks the number {lacks}', command)
            node.close()

    def test_events_before_the_answer(self):
        def late(node, connection, request):
            node.event('EPOCH_COMMITTED', epoch=16)
            return {'return': {'epoch': 17}, 'id': request['id']}
        self.node({'cut': late})
        self.good('epoch 17 is ended\n', 'cut')

    def test_the_socket_is_found_by_the_node_name(self):
        self.conf.write_text(self.conf.read_text().replace('node alpha', 'node ' + socket.gethostname().split('.')[0]))
        node = self.node({'cut': {'epoch': 1}})
        node.greeting = {'tandem': {'control': 1, 'group': 'vm1', 'node': socket.gethostname().split('.')[0]}}
        self.check(self.start('cut', node=None), 0, 'epoch 1 is ended\n')


class Shutdown(Case):
    """It returns when the process that listens has gone, not before."""

    SERVER = '''
import json, os, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1); print(flush=True)
c, _ = s.accept(); f = c.makefile("rb")
c.sendall(b'{"tandem": {"control": 1, "group": "vm1", "node": "alpha"}}\\n')
r = json.loads(f.readline()); assert r["execute"] == "shutdown"
c.sendall(json.dumps({"return": {}, "id": r["id"]}).encode() + b"\\n"); f.close(); c.close()
print(flush=True); sys.stdin.read(1)
'''

    def test_it_waits_for_the_process(self):
        (self.dir / 'run').mkdir()
        server = subprocess.Popen(['python3', '-c', self.SERVER, self.socket], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        self.addCleanup(self.end, server)
        server.stdout.readline()
        process = self.start('shutdown')
        server.stdout.readline()  # the connection has ended, the process lives
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(0.3)
        server.stdin.write(b'x')
        server.stdin.close()
        server.stdin = None
        threading.Thread(target=server.wait).start()
        self.check(process, 0, 'node alpha has ended\n')

    def test_refused(self):
        self.node({'shutdown': error('state', 'not now')})
        self.bad(4, 'node alpha: shutdown: not now', 'shutdown')


class Init(Case):
    """What goes wrong with a node's own files."""

    def unprivileged(self, command, message, code=6):
        os.chmod(self.dir, 0o755)
        self.bad(code, message, command, user=65534, group=65534, extra_groups=[])

    def test_again(self):
        (self.dir / 'vda.img').write_bytes(bytes(4096))
        done = f'node alpha of group vm1 is initialised in {self.dir}/state\n'
        self.good(done, 'init')
        self.bad(4, f'node alpha: it is initialised already ({self.dir}/state/group.meta exists); --force forgets what '
                 'it knows', 'init')
        self.good(done, 'init', '--force')

    def test_no_disk(self):
        code, out, err = self.run_it('init')
        self.assertEqual((code, out), (6, ''))
        self.assertRegex(err, f'^tandem: disk vda: .*{self.dir}/vda.img.*: No such file or directory\n$')
        self.assertFalse((self.dir / 'state/group.meta').exists())

    def test_an_empty_disk(self):
        (self.dir / 'vda.img').touch()
        self.bad(6, f'disk vda: {self.dir}/vda.img is empty; expected a disk of the size that the guest sees', 'init')
        self.assertFalse((self.dir / 'state/group.meta').exists())

    def test_not_root(self):
        if os.getuid() != 0:
            self.skipTest('needs root to become another user')
        self.unprivileged('init', f'node alpha: cannot create state-dir {self.dir}/state: Permission denied')
        (self.dir / 'state').mkdir(mode=0o700)
        for command in ('primary', 'secondary'):
            self.unprivileged(command, f'node alpha: cannot look at {self.dir}/state/group.meta: Permission denied')

    def test_not_root_at_the_control_socket(self):
        if os.getuid() != 0:
            self.skipTest('needs root to become another user')
        self.node()
        os.chmod(self.socket, 0o600)
        message = (f'node alpha of group vm1: cannot connect to {self.socket}: Permission denied; only root and the user '
                   'that runs the node can')
        self.unprivileged('cut', message, 5)
        self.unprivileged('status', message, 5)  # not "stopped": nobody knows

    def test_state_dir_is_a_file(self):
        (self.dir / 'state').touch()
        code, out, err = self.run_it('init')
        self.assertEqual((code, out), (6, ''))
        self.assertRegex(err, rf'^tandem: node alpha: cannot [^\n]* {self.dir}/state[^\n]*: Not a directory\n$')

    def test_start_without_init(self):
        for command in ('primary', 'secondary'):
            self.bad(4, f'node alpha: it is not initialised (there is no {self.dir}/state/group.meta): run tandem init '
                     'first', command)

    def test_held_by_another_process(self):
        (self.dir / 'vda.img').write_bytes(bytes(4096))
        self.run_it('init')
        holder = subprocess.Popen(['flock', self.dir / 'state/lock', 'sh', '-c', 'echo; read x'], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        self.addCleanup(self.end, holder)
        holder.stdout.readline()
        for command in ('init', 'primary', 'secondary'):
            self.bad(9, f'node alpha: another process runs it (it holds {self.dir}/state/lock)', command)

    def test_run_dir_of_another_node(self):
        """Its sockets are not removed: its clients would find the disks of this one."""
        (self.dir / 'vda.img').write_bytes(bytes(4096))
        self.run_it('init')
        sockets = [self.dir / 'run/nbd.sock', self.dir / 'run/control.sock']
        for path in sockets:
            path.touch()
        holder = subprocess.Popen(['flock', self.dir / 'run', 'sh', '-c', 'echo; read x'], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        self.addCleanup(self.end, holder)
        holder.stdout.readline()
        for command in ('primary', 'secondary'):
            self.bad(9, f'node alpha: run-dir {self.dir}/run is in use by another node, perhaps of another group; '
                     'expected a run-dir of its own', command)
        self.assertTrue(all(path.exists() for path in sockets))

    def test_no_plugin(self):
        (self.dir / 'vda.img').write_bytes(bytes(4096))
        self.run_it('init')
        self.bad(6, f'plugin {self.dir}/none.so (from TANDEM_PLUGIN): No such file or directory', 'primary',
                 env=dict(os.environ, TANDEM_PLUGIN=f'{self.dir}/none.so'))

    def test_no_nbdkit(self):
        (self.dir / 'vda.img').write_bytes(bytes(4096))
        self.run_it('init')
        self.bad(1, 'cannot run nbdkit: No such file or directory', 'primary', env=dict(os.environ, PATH='/nowhere'))
