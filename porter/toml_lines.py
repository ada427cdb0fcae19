# SPDX-License-Identifier: Apache-2.0
"""Where each key of a TOML document stands: ``tomllib`` does not tell, and it is asked only when something is wrong."""

from __future__ import annotations

import re

__all__ = ["Key", "key_on", "lines"]

#: A part of the path to a value: a key of a table, or the number of an element of an array.
Key = str | int

_TOKEN = re.compile(
    r'(?P<skip>[ \t\r]+|\#[^\n]*)|(?P<nl>\n)|(?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}'
    r'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')|(?P<punct>[\[\]{},=.])|(?P<word>[^\s\[\]{},=.\#"\']+)',
    re.DOTALL,
)


def lines(text: str) -> dict[tuple[Key, ...], int]:
    """The line of each table, key and array element of a document that tomllib has accepted."""
    line, tokens = 1, []
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            tokens.append((match.lastgroup or "", match[0], line))
        line += match[0].count("\n")
    tokens.append(("nl", "\n", line))
    return _Locator(tokens).document()


class _Locator:
    """Walks the tokens of a TOML document and notes where each key stands."""

    def __init__(self, tokens: list[tuple[str, str, int]]) -> None:
        self._tokens, self._at = tokens, 0
        self._found: dict[tuple[Key, ...], int] = {}
        self._counts: dict[tuple[Key, ...], int] = {}

    def document(self) -> dict[tuple[Key, ...], int]:
        table: tuple[Key, ...] = ()
        while self._at < len(self._tokens):
            kind, text, line = self._tokens[self._at]
            if kind == "nl":
                self._at += 1
            elif text == "[":
                repeated = self._tokens[self._at + 1][1] == "["
                self._at += 2 if repeated else 1
                table = self._inside(self._key())
                if repeated:
                    number = self._counts[table] = self._counts.get(table, -1) + 1
                    self._found.setdefault(table, line)
                    table = (*table, number)
                self._note(table, line)
                self._at += 2 if repeated else 1
            else:
                self._pair(table)
        return self._found

    def _inside(self, key: tuple[Key, ...]) -> tuple[Key, ...]:
        """A header below an array of tables means the array's latest table."""
        path: tuple[Key, ...] = ()
        for i, part in enumerate(key):
            path = (*path, part)
            if i < len(key) - 1 and path in self._counts:
                path = (*path, self._counts[path])
        return path

    def _note(self, path: tuple[Key, ...], line: int) -> None:
        for n in range(1, len(path) + 1):
            self._found.setdefault(path[:n], line)

    def _key(self) -> tuple[Key, ...]:
        parts: list[Key] = []
        while self._tokens[self._at][1] not in ("=", "]"):
            kind, text, _ = self._tokens[self._at]
            if kind in ("word", "text"):
                parts.append(text[1:-1] if kind == "text" else text)
            self._at += 1
        return tuple(parts)

    def _pair(self, table: tuple[Key, ...]) -> None:
        line = self._tokens[self._at][2]
        path = (*table, *self._key())
        self._note(path, line)
        self._at += 1
        self._value(path)

    def _value(self, path: tuple[Key, ...]) -> None:
        first = self._tokens[self._at][1]
        if first not in ("[", "{"):
            while self._tokens[self._at][0] != "nl" and self._tokens[self._at][1] not in (",", "]", "}"):
                self._at += 1
            return
        self._at += 1
        count = 0
        while (text := self._tokens[self._at][1]) not in ("]", "}"):
            if text in (",", "\n"):
                self._at += 1
            elif first == "[":
                self._note((*path, count), self._tokens[self._at][2])
                self._value((*path, count))
                count += 1
            else:
                self._pair(path)
        self._at += 1


def key_on(text: str, line: int) -> str:
    """What stands on a line that is not TOML: its key, or the last key or table above it."""
    for content in reversed(text.splitlines()[:line]):
        match = re.match(r"\s*(\[{1,2}[^\]]+\]{1,2}|[\w.\"'-]+\s*(?==))", content)
        if match:
            return match[1].strip()
    return "the first line"
