#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The man pages and the program say the same: commands, options, exit codes, configuration keys, plugin parameters.

A failure says what is missing where. Whoever adds a command, an option or a key adds its man text."""
import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import mdoc

TANDEM = os.environ['TANDEM']
DUMP_KEYS = os.environ['TANDEM_DUMP_KEYS']
PLUGIN = os.environ['TANDEM_PLUGIN']
TOP = pathlib.Path(__file__).resolve().parents[2]
PAGES = ['tandem.1', 'tandem.conf.5', 'nbdkit-tandem-plugin.1']


def page(name):
    return TOP / 'man' / name


def text_of(name):
    return (TOP / name).read_text(encoding='ascii')


def output(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def help_list(text, title):
    """The rows under "title:" of a help text, as (left, right)."""
    rows, inside = [], False
    for line in text.splitlines():
        if line == title + ':':
            inside = True
        elif inside and line.startswith('  '):
            left, _, right = line.strip().partition('  ')
            rows.append((left, right.strip()))
        elif inside:
            break
    return rows


class Pages(unittest.TestCase):
    def test_lint(self):
        for name in PAGES:
            done = subprocess.run(['mandoc', '-T', 'lint', page(name)], capture_output=True, text=True)
            self.assertEqual(mdoc.lint(done.stdout + done.stderr), [], f'mandoc -T lint man/{name}')

    def test_every_page_is_here(self):
        self.assertEqual(sorted(os.listdir(TOP / 'man')), sorted(PAGES + ['meson.build']),
                         'add a new page to PAGES in tests/cli/test_man.py')

    def test_rendered(self):
        for name in PAGES:
            shown = output('mandoc', '-T', 'ascii', '-O', 'width=100', page(name))
            self.assertIn('SEE ALSO', re.sub('.\b', '', shown), name)


class Program(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.help = output(TANDEM, '--help')
        cls.commands = dict(help_list(cls.help, 'commands'))
        cls.man = mdoc.parse(page('tandem.1'))
        cls.parts = cls.man['COMMANDS'].parts
        cls.common = {i.head for i in cls.man['OPTIONS'].items}

    def test_commands(self):
        self.assertGreater(len(self.commands), 5)
        self.assertEqual(list(self.commands), list(self.parts),
                         'man/tandem.1, COMMANDS: one ".Ss NAME" for each command of `tandem --help`, in its order')

    def test_options_of_the_program(self):
        rows = [left for left, _ in help_list(self.help, 'options')]
        self.assertEqual(rows, ['--help', '--version'])
        self.assertEqual(self.common, {'--node NAME', *rows}, 'man/tandem.1, OPTIONS')

    def test_options_of_commands(self):
        for name in self.commands:
            rows = help_list(output(TANDEM, name, '--help'), 'options')
            own = [left for left, _ in rows if left not in self.common]
            self.assertEqual(len(rows) - len(own), 2, f'tandem {name} --help lacks --node or --help')
            self.assertEqual(own, [i.head for i in self.parts[name].items if i.head.startswith('--')],
                             f'man/tandem.1, ".Ss {name}": one ".It Fl -OPTION" for each option of '
                             f'`tandem {name} --help`, in its order')

    def test_defaults_of_options(self):
        for name in self.commands:
            items = {i.head: i.text for i in self.parts[name].items + self.man['OPTIONS'].items}
            for left, right in help_list(output(TANDEM, name, '--help'), 'options'):
                told = re.search(r'\(default: (.*)\)', right)
                if told:
                    self.assertIn(f'Default: {told[1]}', items[left], f'man/tandem.1: {name} {left}')

    def test_usage_line(self):
        for name in self.commands:
            self.assertRegex(output(TANDEM, name, '--help'), rf'^usage: tandem {name} ([\w|]+ )?CONF \[OPTION...\]\n')

    def test_examples(self):
        """Each command has one, and the program understands each: it fails only for want of the file."""
        with tempfile.TemporaryDirectory() as empty:
            for name, part in self.parts.items():
                own = [e for e in part.examples if re.match(rf'# tandem {name} ', e)]
                self.assertTrue(own, f'man/tandem.1, ".Ss {name}": give an example, ".Dl # tandem {name} ..."')
                for example in part.examples:
                    words = example.removeprefix('# tandem ').split(' | ')[0]
                    words = words.replace('/etc/tandem/', empty + '/').split()
                    done = subprocess.run([TANDEM, *words], capture_output=True, text=True)
                    self.assertEqual(done.returncode, 6, f'{example}: {done.stderr}')
                    self.assertIn('cannot read configuration', done.stderr, example)

    def test_exit_codes(self):
        """tandem(1), docs/errors.md and src/util/error.h."""
        man = {int(i.head): i.text for i in self.man['EXIT STATUS'].items}
        table = dict()
        for line in text_of('docs/errors.md').splitlines():
            row = re.match(r'\| (\d+) \| (\S+) \| (.*) \|$', line)
            if row:
                table[int(row[1])] = row[2], row[3]
        header = text_of('src/util/error.h')
        code = {int(n): name.lower() for name, n in re.findall(r'ERROR_([A-Z]+) = (\d+),', header)}
        self.assertEqual(sorted(code), sorted(table), 'src/util/error.h and docs/errors.md')
        self.assertEqual(sorted(code), sorted(man), 'src/util/error.h and man/tandem.1, EXIT STATUS')
        for n in sorted(code)[1:]:
            self.assertEqual(table[n][0], code[n], f'docs/errors.md: kind of {n}')
            self.assertTrue(man[n].startswith(code[n] + ': '), f'man/tandem.1, EXIT STATUS {n}: begin with "{code[n]}: "')


class Configuration(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.keys = [json.loads(line) for line in output(DUMP_KEYS).splitlines()]
        cls.parts = mdoc.parse(page('tandem.conf.5'))['SECTIONS'].parts

    @staticmethod
    def part_name(section):
        return '[node NAME] section' if section == 'node' else f'[{section}] section'

    @staticmethod
    def key_name(key):
        return key['name'] + ('NAME' if key['name'].endswith('.') else '')

    @staticmethod
    def facts(key):
        default = key.get('initial')
        return [f'Expected: {key["expected"]}.',
                'Mandatory.' if key['mandatory'] else f'Default: {default}.' if default is not None else 'No default.']

    def test_sections(self):
        want = list(dict.fromkeys(self.part_name(k['section']) for k in self.keys))
        self.assertEqual(sorted(want), sorted(self.parts), 'man/tandem.conf.5, SECTIONS: one ".Ss [...] section" for '
                         'each section of src/conf/conf_keys.c')

    def test_keys(self):
        for section in dict.fromkeys(k['section'] for k in self.keys):
            part = self.parts[self.part_name(section)]
            here = [i.head for i in part.items]
            for key in (k for k in self.keys if k['section'] == section):
                name = self.key_name(key)
                text = f'.It Ic {name}\n(what it does)\n' + '\n'.join(self.facts(key))
                self.assertIn(name, here, f'man/tandem.conf.5, "{part.name}": add\n{text}')
            there = [self.key_name(k) for k in self.keys if k['section'] == section]
            self.assertEqual(sorted(set(here) - set(there)), [],
                             f'man/tandem.conf.5, "{part.name}": the program does not know these')
            self.assertEqual(len(here), len(set(here)), f'man/tandem.conf.5, "{part.name}": a key stands twice')

    def test_facts(self):
        for key in self.keys:
            name = self.key_name(key)
            item = next((i for i in self.parts[self.part_name(key['section'])].items if i.head == name), None)
            for fact in self.facts(key) if item else []:
                self.assertIn(fact, item.text, f'man/tandem.conf.5: {name}: expected the words "{fact}"')

    def test_example_is_good(self):
        """The example of the page, with keys made up for it, is a configuration that loads."""
        text = text_of('man/tandem.conf.5')
        example = re.search(r'\.Sh EXAMPLES\n\.Bd .*?\n(.*?)\.Ed', text, re.S)[1]
        with tempfile.TemporaryDirectory() as run:
            path = os.path.join(run, 'vm1.conf')
            with open(path, 'w', encoding='ascii') as f:
                f.write(example.replace('/run/tandem/vm1', run))
            done = subprocess.run([TANDEM, 'status', path, '--node', 'alpha', '--json'], capture_output=True, text=True)
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertEqual(json.loads(done.stdout)['state'], 'stopped')


@unittest.skipIf(os.environ['TANDEM_SANITIZE'] != 'none', 'nbdkit does not load a plugin with a sanitizer')
class Plugin(unittest.TestCase):
    def test_parameters(self):
        shown = output('nbdkit', PLUGIN, '--help')
        rows = dict(re.findall(r'^(\w[\w-]*)=(\w+)\s{2,}', shown, re.M))
        self.assertIn('config', rows, shown)
        heads = [i.head for i in mdoc.parse(page('nbdkit-tandem-plugin.1'))['PARAMETERS'].items]
        self.assertEqual(sorted(f'{k}={v}' for k, v in rows.items()), sorted(heads),
                         'man/nbdkit-tandem-plugin.1, PARAMETERS: one ".It Cm NAME Ns = Ns Ar VALUE" for each of '
                         '`nbdkit PLUGIN --help`')


if __name__ == '__main__':
    unittest.main()
