# SPDX-License-Identifier: Apache-2.0
"""The folder docs/targets/: a page for each target that comes with porter, and an index."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from porter.errors import PorterError
from porter.files import atomic_file
from porter.report.targets import target_page
from porter.target import Target

__all__ = ["pages", "write_pages"]


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    targets = [Target.load(name) for name in Target.names()]
    made = {f"{target.name}.md": target_page(target) for target in targets}
    rows = []
    for target in targets:
        certainty = Counter(op.certainty for op in target.ops.values())
        sure = ", ".join(f"{n} {name}" for name, n in certainty.items())
        rows.append(f"| [{target.name}]({target.name}.md) | {target.title} | {sure} |")
    head = ["# Targets", "", "Written by `porter targets pages docs/targets` from targets/*.toml.", ""]
    table = ["| target | device | ops |", "|---|---|---|", *rows]
    return {"README.md": "\n".join([*head, *table]) + "\n", **made}


def write_pages(folder: Path) -> list[Path]:
    """Write :func:`pages` to ``folder``; the files there are replaced. PorterError PT510 if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PorterError("PT510", f"cannot write {folder}: {error.strerror}", fix="Choose another folder.") from error
    written = []
    for name, text in pages().items():
        with atomic_file(folder / name, overwrite=True) as path:
            path.write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written
