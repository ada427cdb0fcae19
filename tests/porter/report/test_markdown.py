# SPDX-License-Identifier: Apache-2.0
"""The comment on a pull request: a table that stays a table, short enough, and calls nobody."""

from __future__ import annotations

import re

import reports
from hypothesis import given
from hypothesis import strategies as st

from porter.baseline import Baseline, judge
from porter.places import Places
from porter.report.formats import Context, render


def markdown(gate, paths=None):
    return render("markdown", gate, Context("Cambricon MLU270", None, paths or Places()))


def rows(text):
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]


def test_the_table(tmp_path):
    text = markdown(*reports.gate(tmp_path))
    assert text.startswith("### porter check failed: net.onnx on mlu270 (Cambricon MLU270)\n\n6 ops: 1 native, 1 fold")
    table = rows(text)
    assert [row[0].strip(" *") for row in table[2:]] == ["unsupported", "unknown", "host", "rewrite", "fold"]
    assert table[2][1].strip() == "nonzero"
    assert table[2][2].strip() == "PT101: there is no nonzero \\| &lt;b&gt; 100% @\u200byou"
    assert table[2][3].strip() == "net/head.py:7 in head" and table[2][4].strip() == "change the model"


def test_what_is_accepted_is_folded_away(tmp_path):
    text = markdown(*reports.gate(tmp_path, portable=True))
    before, _, after = text.partition("<details><summary>Accepted (2)</summary>")
    assert "nonzero" in before and "slice\\_assign" not in before and "slice\\_assign" in after


def test_a_baseline_leaves_what_is_new(tmp_path):
    paths = reports.source(tmp_path)
    text = markdown(judge(reports.report(), baseline=Baseline("mlu270", "net.onnx", (), "k.json"), places=paths), paths)
    assert "5 new findings, 0 known, 0 gone (baseline k.json)" in text


def test_a_large_report_fits_a_comment():
    made = [reports.op(f"kind{i}", f"n{i}", "unsupported", reason="PT201: " + "very long " * 99) for i in range(400)]
    text = markdown(judge(reports.report(made)))
    assert len(text) < 65536 and "And 370 more kinds of op" in text


@given(st.text(max_size=40))
def test_no_name_breaks_the_table(name):
    made = reports.op(f"k{name}", "n", "unsupported", reason=f"PT201: {name}")
    table = rows(markdown(judge(reports.report([made]))))
    assert len(table) == 3 and all(len(row) == 5 for row in table)
