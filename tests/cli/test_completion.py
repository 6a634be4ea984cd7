#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The completion of bash, run in bash: what a press of Tab offers for a line."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

TANDEM = os.environ['TANDEM']
SCRIPT = pathlib.Path(__file__).resolve().parents[2] / 'packaging/tandem.bash'
LIBRARY = '/usr/share/bash-completion/bash_completion'

# bash gives the function the words split at COMP_WORDBREAKS, of which only "=" occurs here.
DRIVER = r'''
source "$1"; source "$2"; shift 2
COMP_LINE=$1 COMP_POINT=${#1}; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9 COMP_KEY=9
compopt() { printf "compopt%s\n" "$(printf " %s" "$@")"; }
complete -p tandem >/dev/null || exit 1
_tandem tandem "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
'''
CONF = '[group]\nname = vm1\n[node alpha]\nlink = 127.0.0.1:1\n  [node   beta-2.x]\n# [node comment]\n'


def words_of(line):
    words = []
    for word in line.split(' '):
        words += re.findall(r'=|[^=]+', word) or ['']
    if line.endswith('='):
        words.append('')
    return words


class Completion(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        for name, text in (('vm1.conf', CONF), ('notes.txt', '')):
            (pathlib.Path(self.dir.name) / name).write_text(text, encoding='ascii')
        (pathlib.Path(self.dir.name) / 'old').mkdir()

    def offers(self, line):
        env = dict(os.environ, PATH=os.path.dirname(TANDEM) + ':' + os.environ['PATH'])
        done = subprocess.run(['bash', '--norc', '-c', DRIVER, 'bash', LIBRARY, SCRIPT, line, *words_of(line)],
                              cwd=self.dir.name, env=env, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ''), line)
        return done.stdout.split('\n')[:-1] if done.stdout != '\n' else []

    def check(self, line, *expected):
        self.assertEqual(sorted(self.offers(line)), sorted(expected), line)

    def help_words(self, *command):
        shown = subprocess.run([TANDEM, *command, '--help'], check=True, capture_output=True, text=True).stdout
        title = 'options:' if command else 'commands:'
        rows = shown.split(title + '\n')[1].split('\n\n')[0].splitlines()
        return [row.split()[0] for row in rows]

    def test_commands(self):
        commands = self.help_words()
        self.assertIn('promote', commands)
        self.check('tandem ', *commands)
        self.check('tandem pro', 'promote')
        self.check('tandem nothing')

    def test_options_of_the_program(self):
        self.check('tandem --', '--help', '--version')

    def test_options_of_each_command(self):
        for command in self.help_words():
            options = [re.sub(r'\[=.*', '=', o) for o in self.help_words(command)]
            self.assertIn('--node', options)
            got = [o for o in self.offers(f'tandem {command} vm1.conf --') if not o.startswith('compopt')]
            self.assertEqual(sorted(got), sorted(options), command)

    def test_a_choice_goes_on_without_a_space(self):
        self.check('tandem cut vm1.conf --w', 'compopt -o nospace', '--wait=')
        self.check('tandem status vm1.conf --w', '--watch')

    def test_values(self):
        self.check('tandem cut vm1.conf --wait=', 'received', 'committed')
        self.check('tandem cut vm1.conf --wait=c', 'committed')
        self.check('tandem cut vm1.conf --timeout ')
        self.check('tandem cut vm1.conf --timeout 5 --w', 'compopt -o nospace', '--wait=')

    def test_configuration_file(self):
        for line in ('tandem status ', 'tandem status --json ', 'tandem status --interval 2 ',
                     'tandem status --node alpha '):
            got = [o for o in self.offers(line) if not o.startswith('compopt')]
            self.assertEqual(sorted(got), ['old', 'vm1.conf'], line)
        self.check('tandem status vm1.conf ')

    def test_node_names(self):
        self.check('tandem status vm1.conf --node ', 'alpha', 'beta-2.x')
        self.check('tandem status vm1.conf --node b', 'beta-2.x')
        self.check('tandem status vm1.conf --node=al', 'alpha')
        self.check('tandem cut --wait=received vm1.conf --node a', 'alpha')
        self.check('tandem status --node ')
        self.check('tandem status missing.conf --node ')


if __name__ == '__main__':
    if not os.path.exists(LIBRARY):
        print(f'there is no {LIBRARY} (package bash-completion)')
        sys.exit(77)
    unittest.main()
