# SPDX-License-Identifier: Apache-2.0
"""Annotations of a GitHub workflow: file, line, escapes, and no way out of a command for a model's names."""

from __future__ import annotations

import re

import reports
from hypothesis import given
from hypothesis import strategies as st

from porter.baseline import judge
from porter.ops import Origin
from porter.places import Places
from porter.report.formats import Context, render

COMMAND = re.compile(r"::(error|warning|notice) ([^:]*)::(.*)")


def parse(line):
    """A workflow command as the runner reads it: (command, properties, message)."""
    command, properties, message = COMMAND.fullmatch(line).groups()

    def plain(text):
        for code, character in (("%0A", "\n"), ("%0D", "\r"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            text = text.replace(code, character)
        return text

    return command, {k: plain(v) for k, _, v in (p.partition("=") for p in properties.split(","))}, plain(message)


def annotations(gate, paths, model=None):
    *lines, last = render("github", gate, Context("Cambricon MLU270", model, paths)).split("\n")
    assert last.startswith("porter: ")
    return [parse(line) for line in lines], last


def test_file_line_title_and_message(tmp_path):
    found, last = annotations(*reports.gate(tmp_path))
    command, properties, message = found[0]
    assert command == "error"
    assert properties == {"file": "net/head.py", "line": "7", "title": "PT101 nonzero: unsupported"}
    assert message == "there is no nonzero | <b> 100% @you\nfix: change the model"
    assert [one[0] for one in found] == ["error", "warning", "warning", "warning", "warning"]
    assert "5 findings" in last


def test_the_exact_line(tmp_path):
    made = reports.op("a,b", "n", "unsupported", Origin(reports.HEAD, 7), reason="PT201: 5% < 4%\r\nno: never")
    paths = reports.source(tmp_path)
    text = render("github", judge(reports.report([made]), places=paths), Context("x", None, paths))
    assert text.split("\n")[0] == (
        "::error file=net/head.py,line=7,title=PT201 a%2Cb%3A unsupported::"
        "5%25 < 4%25%0D%0Ano: never%0Afix: change the model"
    )


def test_known_is_silent_and_accepted_is_a_notice(tmp_path):
    paths = reports.source(tmp_path)
    found, _ = annotations(judge(reports.report(), portable=True, places=paths), paths)
    assert [one[0] for one in found] == ["error", "warning", "warning", "notice", "notice"]


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_name_ends_a_command_or_begins_one(kind, reason):
    made = reports.op(kind or "x", "n\n::error::x", "unsupported", Origin(source=("n\n::error::x",)),
                      reason=f"PT201: {reason}")  # fmt: skip
    text = render("github", judge(reports.report([made])), Context("x", None, Places()))
    lines = re.split(r"[\r\n]", text)
    assert len(lines) == 2 and lines[0].startswith("::error ") and lines[1].startswith("porter: ")
    _, properties, message = parse(lines[0])
    assert kind in properties["title"] or not kind
    assert message.startswith(reason)
