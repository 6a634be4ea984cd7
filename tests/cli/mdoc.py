# SPDX-License-Identifier: LGPL-2.1-or-later
"""The little of mdoc(7) that our man pages use: sections, subsections, items of lists, examples."""
import pathlib
import re

# Macros whose arguments are the text; the others disappear.
FONT = {'Ic', 'Cm', 'Ar', 'Em', 'Pa', 'Li', 'Ev', 'Dv', 'Er', 'Sy', 'Nm', 'No', 'Xr', 'Fl', 'Ql', 'Pq', 'Bq',
        'Op', 'Ns', 'Sx', 'Dl', 'It', 'Po', 'Pc'}
OPENERS = {'Bq': '[]', 'Op': '[]', 'Pq': '()', 'Ql': ('', '')}


class Item:
    def __init__(self, head):
        self.head, self.body = head, []

    @property
    def text(self):
        return ' '.join(' '.join(self.body).split())


class Part:
    """A section or subsection: its items by head, its text, its examples (.Dl lines)."""

    def __init__(self, name):
        self.name, self.items, self.body, self.examples, self.parts = name, [], [], [], {}

    @property
    def text(self):
        return ' '.join(' '.join(self.body).split())


def plain(line):
    """A macro line as the words that a reader sees."""
    words, out, closing = line.split(), [], ''
    glue = False
    for word in words:
        if word in ('Ns',):
            glue = True
            continue
        if word in OPENERS:
            opener = OPENERS[word]
            if glue and out:
                out[-1] += opener[0]
            else:
                out.append(opener[0])
            closing = opener[1] + closing
            glue = True
            continue
        if word == 'Fl':
            out.append('-')
            glue = True
            continue
        if word in FONT:
            continue
        word = word.replace('\\&', '').replace('\\e', '\\')
        if out and (glue or word in ('.', ',', ';', ':')):
            out[-1] += word
        else:
            out.append(word)
        glue = False
    return ' '.join(out) + closing


def parse(path):
    """Sections by name."""
    sections, part, section, item, depth = {}, None, None, None, 0
    for line in pathlib.Path(path).read_text(encoding='ascii').splitlines():
        if line.startswith('.\\"'):
            continue
        macro, _, rest = line[1:].partition(' ') if line.startswith('.') else ('', '', line)
        if macro == 'Sh':
            section = part = sections.setdefault(rest, Part(rest))
            item = None
        elif macro == 'Ss':
            part = section.parts[rest] = Part(rest)
            item = None
        elif part is None:
            continue
        elif macro == 'Bl':
            depth += 1
        elif macro == 'El':
            depth -= 1
            item = None
        elif macro == 'It':
            item = Item(plain(rest))
            part.items.append(item)
        elif macro == 'Dl':
            part.examples.append(rest.replace('\\e', '\\'))
        elif macro in ('Pp', 'Bd', 'Ed', 'Nd'):
            continue
        else:
            words = plain(line[1:]) if macro else line.replace('\\&', '').replace('\\e', '\\')
            (item or part).body.append(words)
    return sections


def lint(text):
    """What mandoc -T lint says, without what depends on the pages that are installed here."""
    return [line for line in text.splitlines()
            if not re.search(r'outdated mandoc.db|referenced manual not found', line)]
