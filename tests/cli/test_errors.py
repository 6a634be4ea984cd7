# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a node answers, and whatever the user types: one line that says what is wrong, and the exit code of its kind."""
import subprocess

from fake_node import TANDEM, Case, error

KINDS = {'general': 1, 'usage': 2, 'state': 4, 'io': 6, 'peer': 7, 'timeout': 8}


class Kinds(Case):
    def test_each_kind_has_its_exit_code(self):
        for kind, code in KINDS.items():
            node = self.node({'promote': error(kind, f'some {kind}')})
            self.bad(code, f'node alpha: promote: some {kind}', 'promote')
            node.close()

    def test_the_command_is_named_once(self):
        for desc in ('cut: the queue is full', 'the queue is full'):
            node = self.node({'cut': error('state', desc)})
            self.bad(4, 'node alpha: cut: the queue is full', 'cut')
            node.close()

    def test_a_kind_of_a_later_version(self):
        self.node({'cut': error('moon', 'full')})
        self.bad(1, 'node alpha: cut: full', 'cut')

    def test_not_running(self):
        self.bad(5, f'node alpha of group vm1 is not running: there is no socket {self.socket}', 'cut')


class BadNodes(Case):
    def protocol(self, why, what='cut'):
        return f'node alpha: {what}: what answers on {self.socket} does not speak the control protocol: {why}'

    def greeted(self, greeting, code, message):
        node = self.node(greeting=greeting)
        self.bad(code, message, 'cut')
        node.close()

    def answered(self, answer, code, message):
        node = self.node({'cut': lambda node, connection, request: answer})
        self.bad(code, message, 'cut')
        node.close()

    def test_greetings(self):
        for greeting, why in ((b'HTTP/1.1 400\n', "'[' or '{' expected near 'HTTP'"), (b'[]\n', 'not a JSON object'),
                              (b'{}\n', 'it lacks group, node or control'), (b'\n', "'[' or '{' expected near end of file"),
                              (b'{"QMP": {"version": {}}}\n', 'it lacks group, node or control'),
                              (b'{"a": 1, "a": 2}\n', "duplicate object key near '\"a\"'"),
                              (b'\xff\xfe\n', 'unable to decode byte 0xff'), (b'\0\n', None)):
            if why:
                self.greeted(greeting, 1, self.protocol(why, 'greeting'))
            else:
                node = self.node(greeting=greeting)
                self.assertEqual(self.run_it('cut')[0], 1)
                node.close()

    def test_another_version(self):
        self.greeted({'tandem': {'control': 2, 'group': 'vm1', 'node': 'alpha'}}, 1,
                     'node alpha: it speaks version 2 of the control interface, this program version 1')

    def test_another_node(self):
        self.greeted({'tandem': {'control': 1, 'group': 'vm2', 'node': 'beta'}}, 1,
                     f'node alpha of group vm1: on {self.socket} answers node beta of group vm2')

    def test_answers(self):
        for answer, why in ((b'nonsense\n', "'[' or '{' expected near 'nonsense'"), (b'7\n', "'[' or '{' expected near '7'"),
                            (b'{"return": {}, "id": 99}\n', 'an answer to another request'),
                            (b'{"return": {}}\n', 'an answer to another request'),
                            (b'{"return": 7, "id": 1}\n', 'an answer without "return"'),
                            (b'{"id": 1}\n', 'an answer without "return"'),
                            (b'{"error": {"kind": "io"}, "id": 1}\n', 'an error without kind or desc'),
                            (b'{"error": 5, "id": 1}\n', 'an error without kind or desc')):
            self.answered(answer, 1, self.protocol(why))

    def test_an_error_that_names_no_request(self):
        self.answered(b'{"error": {"kind": "usage", "desc": "this is not JSON"}}\n', 2,
                      'node alpha: cut: this is not JSON')

    def test_it_hangs_up(self):
        self.node({'cut': lambda node, connection, request: connection.shutdown(2)})
        self.bad(5, 'node alpha: cut: it ended the connection without an answer', 'cut')

    def test_it_hangs_up_in_the_middle_of_an_answer(self):
        def close(node, connection, request):
            connection.sendall(b'{"return": {"epo')
            connection.shutdown(2)
        self.node({'cut': close})
        self.bad(5, 'node alpha: cut: it ended the connection without an answer', 'cut')

    def test_huge_lines(self):
        """1 MiB is a line; one byte more is none, and is not held in memory."""
        answer = b'{"return": {"epoch": 5}, "id": 1}'
        limit = 1 << 20
        node = self.node({'cut': lambda *_: answer.ljust(limit) + b'\n'})
        self.good('epoch 5 is ended\n', 'cut')
        node.close()
        self.answered(answer.ljust(limit + 1) + b'\n', 1,
                      f'node alpha: cut: the answer on {self.socket} is longer than {limit} bytes')

        def endless(node, connection, request):
            while True:
                connection.sendall(bytes(65536))
        self.node({'cut': endless})
        self.bad(1, f'node alpha: cut: the answer on {self.socket} is longer than {limit} bytes', 'cut')

    def test_silence(self):
        """Every wait has an end.  All at once, because each takes its seconds."""
        node = self.node({'query-status': lambda *_: None, 'query-pending': lambda *_: None, 'cut': lambda *_: None})
        asked = [(self.start(*command), message) for command, message in (
            (['status'], 'node alpha: query-status: no answer in time'),
            (['pending', '--json'], 'node alpha: query-pending: no answer in time'),
            (['cut', '--wait', '--timeout', '0.1'], 'node alpha: cut: no answer in time'))]
        self.until('they have asked', lambda: len(node.requests) == 3)
        node.greeting = None
        mute = self.start('cut')
        watch = self.start('status', '--watch')
        self.check(mute, 5, '', 'tandem: node alpha: greeting: no answer in time\n')
        # It is not "stopped": nobody may conclude that its disks are free.
        self.assertRegex(watch.stdout.readline(),
                         r'vm1/alpha secondary failed, node alpha: greeting: no answer in time\n$')
        for process, message in asked:
            self.check(process, 8, '', f'tandem: {message}\n')


class CommandLine(Case):
    def wrong(self, message, *words):
        process = subprocess.Popen([TANDEM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.end, process)
        self.check(process, 2, '', f'tandem: {message}\n')

    def test_commands(self):
        self.wrong('no command; see tandem --help')
        self.wrong('unknown command "stat"; see tandem --help', 'stat')
        self.wrong('unknown command ""; see tandem --help', '')
        self.wrong('unknown option "-h"; see tandem --help', '-h')
        self.wrong('unknown command "a?b"; see tandem --help', 'a\x1bb')

    def test_words(self):
        conf = str(self.conf)
        self.wrong('cut: the configuration file is missing; see tandem cut --help', 'cut')
        self.wrong('cut: unexpected argument "now"; see tandem cut --help', 'cut', conf, 'now')
        self.wrong('cut: unknown option "--now"; see tandem cut --help', 'cut', '--now', conf)
        self.wrong('cut: unknown option "-n"; see tandem cut --help', 'cut', conf, '-n')
        self.wrong('cut: option --timeout needs a value S', 'cut', conf, '--timeout')
        self.wrong('cut: option --node needs a value NAME', 'cut', conf, '--node')
        self.wrong('status: option --json takes no value', 'status', conf, '--json=yes')

    def test_values(self):
        conf = str(self.conf)
        for value in ('0', 'x', '-1', '1e3', '86400.1', 'inf', '', '1.2.3'):
            self.wrong(f'cut: option --timeout: "{value}" is not a number of seconds from 0.001 to 86400', 'cut', conf,
                       '--wait', '--timeout', value)
        self.wrong('status: option --interval: "0.05" is not a number of seconds from 0.1 to 86400', 'status', conf,
                   '--watch', '--interval', '0.05')
        self.wrong('cut: option --wait: "sealed" is not one of received|committed', 'cut', conf, '--wait=sealed')
        for value in ('0', '-1', '9223372036854775808', '1x'):
            self.wrong(f'commit: option --epoch: "{value}" is not a number from 1 to 9223372036854775807', 'commit', conf,
                       '--epoch', value)

    def test_options_that_need_another(self):
        self.wrong('cut: option --timeout needs --wait', 'cut', str(self.conf), '--timeout', '1')
        self.wrong('status: option --interval needs --watch', 'status', str(self.conf), '--interval', '1')

    def test_nodes(self):
        self.bad(2, f'{self.conf} has no node "gamma"; expected one of: alpha, beta', 'status', node='gamma')
        code, out, err = self.run_it('status', node=None)
        self.assertEqual((code, out), (2, ''))
        self.assertRegex(err, r'has no node named as this host, "[^"]*"; say which one it is with --node: alpha, beta\n$')

    def test_help_needs_nothing_else(self):
        for words in (['--help'], ['--version'], ['cut', '--help'], ['cut', 'none.conf', '--node', 'x', '--help']):
            done = subprocess.run([TANDEM, *words], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ''), words)
            self.assertTrue(done.stdout, words)


class Configuration(Case):
    """That the program shows the parser's message; all of them are in tests/unit/test_conf.c."""

    def wrong(self, code, message, before, after, conf=None):
        path = self.dir / 'bad.conf'
        text = self.conf.read_text()
        self.assertIn(before, text)
        path.write_text(text.replace(before, after, 1))
        self.bad(code, message.format(path=path), 'status', conf=conf or path)

    def test_messages(self):
        for line, message in (
                ('epoch-ms = fast', 'key "epoch-ms" in [group]: "fast" is not a number of milliseconds from 0 to 60000'),
                ('queue-limit = 1', 'key "queue-limit" in [group]: "1" is not a size from 8.0 MiB to 64.0 GiB, such as 256M'),
                ('on-congestion = wait', 'key "on-congestion" in [group]: "wait" is not "block" or "detach"'),
                ('name = vm2', 'key "name" in [group]: already set on line 2'),
                ('just words', 'not understood; expected "[SECTION]" or "KEY = VALUE"'),
                ('[stuff]', 'section [stuff]: unknown section; expected [group], [node NAME], [guest], [security], '
                 '[arbiter] or [unsafe]')):
            self.wrong(3, '{path}:3: ' + message, '[node alpha]', f'{line}\n[node alpha]')

    def test_a_key_that_is_not_known_lists_those_that_are(self):
        self.wrong(3, '{path}:8: key "discs.vda" in [node alpha]: unknown key; expected one of link, state-dir, run-dir, '
                   'disk.NAME, ingest', '[node beta]', 'discs.vda = /x\n[node beta]')

    def test_clear_text(self):
        self.wrong(3, '{path}:4: key "link" in [node alpha]: 192.0.2.1 is not a loopback address and nothing encrypts the '
                   'link; expected tls-psk or tls-x509 in [security], or plaintext-link = yes in [unsafe]',
                   '127.0.0.1:7800', '192.0.2.1:7800')

    def test_no_file(self):
        self.bad(6, f'cannot read configuration {self.dir}/none.conf: No such file or directory', 'status',
                 conf=self.dir / 'none.conf')
        self.bad(6, f'cannot read configuration {self.dir}: Is a directory', 'status', conf=self.dir)

    def test_no_control_characters(self):
        path = self.dir / 'bad.conf'
        path.write_text('[group]\nname = vm1\n\x1b[31m = 1\n')
        code, out, err = self.run_it('status', conf=path)
        self.assertEqual((code, out), (3, ''))
        self.assertNotIn('\x1b', err)

