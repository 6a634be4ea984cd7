#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The documents: every relative link resolves, also to a heading; every document is reachable from docs/README.md, and that
from README.md; plain ASCII; examples in other formats parse; no known misspelling (codespell)."""
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

TOP = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r'(?<!!)\[[^]]*\]\(([^)\s]+)\)')
SPELLED = ['README.md', 'docs', 'man', 'packaging', 'src', 'tools', 'check', 'demo', 'meson_options.txt']
WORDS = 'nd,tread,inflight'  # what codespell takes for a mistake, and is none
faults = []


def fault(path, line, text):
    faults.append(f'{path.relative_to(TOP)}:{line}: {text}')


def prose(text):
    """The text with code blocks blanked, so that lines keep their numbers."""
    return re.sub(r'^```.*?^```', lambda m: '\n' * m[0].count('\n'), text, flags=re.M | re.S)


def anchors(path):
    heads = re.findall(r'^#+ (.*)$', prose(path.read_text(encoding='utf-8')), re.M)
    return {re.sub(r'[^a-z0-9 _-]', '', h.lower()).replace(' ', '-') for h in heads}


def links(path):
    """The files that it links to."""
    found = set()
    for number, line in enumerate(prose(path.read_text(encoding='utf-8')).splitlines(), 1):
        for target in LINK.findall(re.sub(r'`[^`]*`', '', line)):
            if re.match(r'[a-z+]+:', target):
                continue
            name, _, anchor = target.partition('#')
            there = (path.parent / name).resolve() if name else path
            if not there.exists():
                fault(path, number, f'link to {target}: there is no such file')
            elif anchor and anchor not in anchors(there):
                fault(path, number, f'link to {target}: no such heading')
            found.add(there)
    return found


def check_text(path):
    text = path.read_text(encoding='utf-8')
    for number, line in enumerate(text.splitlines(), 1):
        if not line.isascii():
            fault(path, number, 'not plain ASCII')
        if line != line.rstrip():
            fault(path, number, 'white space at the end')
    for block in re.finditer(r'^```xml\n(.*?)^```', text, re.M | re.S):
        try:
            xml.etree.ElementTree.fromstring(block[1])
        except xml.etree.ElementTree.ParseError as e:
            fault(path, text[:block.start()].count('\n') + 1, f'XML: {e}')


INDEX = TOP / 'docs/README.md'
documents = [TOP / 'README.md', *sorted((TOP / 'docs').glob('**/*.md'))]
linked = {}
for document in documents:
    check_text(document)
    linked[document] = links(document)
for document in documents[1:]:
    if document != INDEX and document not in linked[INDEX]:
        fault(document, 1, 'docs/README.md does not link to it: a newcomer would not find it')
if INDEX not in linked[documents[0]]:
    fault(documents[0], 1, 'no link to docs/README.md')

if shutil.which('codespell'):
    done = subprocess.run(['codespell', '--skip', 'corpus,*.pyc,__pycache__', '-L', WORDS, *SPELLED], cwd=TOP,
                          capture_output=True, text=True)
    faults += done.stdout.splitlines()
else:
    print('codespell is missing: spelling is not checked')
print('\n'.join(faults) or f'{len(documents)} documents are good')
sys.exit(1 if faults else 0)
