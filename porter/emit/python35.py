# SPDX-License-Identifier: Apache-2.0
"""Whether a piece of Python source is readable by Python 3.5, the oldest interpreter of the device images."""

from __future__ import annotations

import ast
import io
import tokenize

__all__ = ["newer_than_35"]

_NEWER: dict[type[ast.AST], str] = {
    ast.JoinedStr: "an f-string (3.6)",
    ast.AnnAssign: "an annotated variable (3.6)",
    ast.NamedExpr: "an assignment expression (3.8)",
    ast.Match: "a match statement (3.10)",
    ast.AsyncFunctionDef: "an async function",
}


def newer_than_35(source: str) -> list[str]:
    """Every use of syntax that Python 3.5 cannot read, as ``"line 3: an f-string (3.6)"``; empty when there is none.

    ``ast.parse(feature_version=(3, 5))`` alone lets f-strings through, so the tree and the tokens are searched too.
    """
    try:
        tree = ast.parse(source, feature_version=(3, 5))
    except SyntaxError as error:
        return [f"line {error.lineno}: {error.msg}"]
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        what = _NEWER.get(type(node))
        if what is not None:
            found.append((getattr(node, "lineno", 0), what))
        if isinstance(node, ast.comprehension) and node.is_async:
            found.append((0, "an async comprehension (3.6)"))
        if isinstance(node, ast.arguments) and node.posonlyargs:
            found.append((node.posonlyargs[0].lineno, "positional-only parameters (3.8)"))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NUMBER and "_" in token.string:
            found.append((token.start[0], "an underscore in a number (3.6)"))
    found += [(line, "a comma after *args or **kwargs (3.6)") for line in _trailing_commas(source)]
    return [f"line {line}: {what}" for line, what in sorted(found)]


def _trailing_commas(source: str) -> list[int]:
    """Lines of a parameter list with a comma after its ``*args`` or ``**kwargs``, which 3.5 rejects."""
    lines = []
    tokens = [
        t
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)
    ]
    start = None
    for i, token in enumerate(tokens):
        if token.string == "def":
            start = i
        if start is not None and token.string == ":" and tokens[i - 1].string == ")":
            if tokens[i - 2].string == "," and any(t.string in ("*", "**") for t in tokens[start:i]):
                lines.append(token.start[0])
            start = None
    return lines
