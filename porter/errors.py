# SPDX-License-Identifier: Apache-2.0
"""The one exception that reaches a user, and the manual page behind each of its codes.

Families of codes: PT1xx op support, PT2xx limits, PT3xx rewrites, PT4xx numerics, PT5xx files, security and
usage. A code never changes its meaning. Each has one page, ``porter/explain/PTxxx.md``, whose first line is
``# PTxxx title``; findings (which are not exceptions) use the same pages.
"""

from __future__ import annotations

import difflib
import re
from importlib import resources
from importlib.resources.abc import Traversable

_CODE = re.compile(r"PT[1-9]\d\d")


class PorterError(Exception):
    """Something that the user can put right: a file, an option, a model. Never a bug in porter.

    Fields:
        code: stable, such as ``PT501``; ``explain(code)`` is its page.
        message: one sentence that names the thing (the file, the input, the key).
        where: the place in the user's world (``ckpt.pth: archive/data.pkl``, ``my.toml:12``), or None.
        fix: what to do next, as an imperative sentence, or None.
    """

    def __init__(self, code: str, message: str, where: str | None = None, fix: str | None = None) -> None:
        if not _CODE.fullmatch(code):
            raise ValueError(f"not a code of the form PTnnn: {code!r}")
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


def _pages() -> Traversable:
    return resources.files("porter").joinpath("explain")


def codes() -> list[tuple[str, str]]:
    """Every code that has a page, with the page's title, in the order of the codes."""
    found = []
    for page in _pages().iterdir():
        code, _, suffix = page.name.partition(".")
        if suffix == "md" and _CODE.fullmatch(code):
            heading = page.read_text(encoding="utf-8").partition("\n")[0]
            found.append((code, heading.removeprefix(f"# {code}").strip()))
    return sorted(found)


def explain(code: str) -> str:
    """The manual page (markdown) of a code; upper or lower case.

    Raises:
        PorterError: PT517, which names the nearest code, when there is no such page.
    """
    wanted = code.strip().upper()
    known = [name for name, _ in codes()]
    if wanted in known:
        return _pages().joinpath(f"{wanted}.md").read_text(encoding="utf-8")
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.0)
    fix = f"Did you mean {near[0]}? Run `porter explain` for the whole list."
    raise PorterError("PT517", f"there is no code {code!r}", fix=fix)
