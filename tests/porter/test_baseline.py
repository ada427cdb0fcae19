# SPDX-License-Identifier: Apache-2.0
"""Baselines: what is known stays known when lines move, what is new or worse is new, and the file is checked."""

from __future__ import annotations

import json
from collections import Counter

import jsonschema
import pytest
import reports
from hypothesis import given
from hypothesis import strategies as st

from porter.baseline import judge, read_baseline, write_baseline
from porter.errors import PorterError
from porter.matching import pair
from porter.ops import Origin
from porter.report.json import schema


def known(root, made=None):
    """A baseline of a report whose source is below ``root``, by way of its file."""
    paths = reports.source(root)
    write_baseline(reports.report(made), root / "known.json", places=paths, overwrite=True)
    return read_baseline(root / "known.json")


def new(report, baseline, paths):
    return [item.finding.op for item in judge(report, baseline=baseline, places=paths).new]


def test_the_same_report_is_known(tmp_path):
    gate = judge(reports.report(), baseline=known(tmp_path), places=reports.source(tmp_path))
    assert gate.ok and gate.gone == () and gate.count("known") == 5


def test_a_shift_of_lines_changes_nothing(tmp_path):
    before = known(tmp_path)
    paths = reports.source(tmp_path, "# three\n# more\n# lines\n" + reports.SOURCE.replace("    ", "\t"))
    assert judge(reports.report(reports.ops(shift=3)), baseline=before, places=paths).ok


def test_without_modules_the_text_of_the_line_tells(tmp_path):
    def bare(line):
        return [reports.op("nonzero", f"n{line}", "unsupported", Origin(reports.HEAD, line), reason="PT101: no")]

    before = known(tmp_path, bare(7))
    moved = reports.source(tmp_path, "\n" + reports.SOURCE)
    assert judge(reports.report(bare(8)), baseline=before, places=moved).ok
    other = reports.source(tmp_path, reports.SOURCE.replace("torch.nonzero(x)", "torch.nonzero(x > 1)"))
    assert not judge(reports.report(bare(7)), baseline=before, places=other).ok


def test_one_more_of_the_same_is_new_and_it_is_the_one_on_the_new_line(tmp_path):
    def sets(*lines):
        return [
            reports.op("slice_assign", f"s{line}", "unsupported", Origin(reports.HEAD, line, module="head"),
                       reason="PT101: no")
            for line in lines
        ]  # fmt: skip

    before = known(tmp_path, sets(7))
    paths = reports.source(tmp_path)
    assert new(reports.report(sets(6, 7)), before, paths) == ["s6"]
    assert new(reports.report(sets(6)), before, paths) == []  # the line was edited


def test_numbers_of_nodes_do_not_matter(tmp_path):
    def nodes(*numbers):
        return [reports.op("nonzero", f"NonZero_{n}", "unsupported", reason="PT101: no") for n in numbers]

    before = known(tmp_path, nodes(3, 9))
    paths = reports.source(tmp_path)
    assert new(reports.report(nodes(4, 11)), before, paths) == []
    assert new(reports.report(nodes(4, 11, 12)), before, paths) == ["NonZero_12"]


def test_worse_is_new_and_better_is_known(tmp_path):
    def one(verdict):
        return [reports.op("amax", "a", verdict, Origin(module="m"), reason="PT101: no")]

    order = ["fold", "rewrite", "host", "unknown", "unsupported"]
    paths = reports.source(tmp_path)
    for i, was in enumerate(order):
        before = known(tmp_path, one(was))
        for j, now in enumerate(order):
            assert (new(reports.report(one(now)), before, paths) == []) == (j <= i), (was, now)


def test_what_is_gone_is_said(tmp_path):
    gate = judge(reports.report(reports.ops()[:3]), baseline=known(tmp_path), places=reports.source(tmp_path))
    assert gate.ok and [entry.kind for entry in gate.gone] == ["nonzero", "silu", "topk"]


def test_portable_accepts_what_rewrite_fixes():
    gate = judge(reports.report(), portable=True)
    assert [item.finding.op for item in gate.new] == ["nonzero", "silu", "topk"]
    assert judge(reports.report(reports.ops()[:3]), portable=True).ok
    assert not judge(reports.report(reports.ops()[:3])).ok


def test_nodes_with_one_name_have_one_finding_each():
    same = [reports.op("amax", "", verdict, reason="PT101: no") for verdict in ("rewrite", "unsupported")]
    assert [item.op for item in judge(reports.report(same)).judged] == same


def test_another_target(tmp_path):
    before = known(tmp_path)
    report = reports.report()
    other = type(report)("mlu220", report.model, report.ops, report.findings)
    with pytest.raises(PorterError) as caught:
        judge(other, baseline=before)
    assert caught.value.code == "PT532" and "known.json" in caught.value.where


def test_the_file_is_small_stable_and_valid(tmp_path):
    many = [reports.op("identity", f"Identity_{i}", "fold", reason="PT110: it folds") for i in range(1000)]
    before = known(tmp_path, many)
    text = (tmp_path / "known.json").read_text()
    data = json.loads(text)
    jsonschema.Draft202012Validator(schema("baseline")).validate(data)
    assert len(text) < 500 and data["known"][0]["count"] == 1000 and len(before.entries) == 1000
    assert str(tmp_path) not in text
    known(tmp_path, many[::-1])
    assert (tmp_path / "known.json").read_text() == text


GOOD = {"code": "PT101", "kind": "k", "place": "p", "text": "", "verdict": "rewrite", "severity": "warning", "count": 1}


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "null", '{"schema_version": "1.0"}', "\xff", "[" * 100_000,
        json.dumps({"schema_version": "2.0", "target": "t", "model": "m", "known": []}),
        json.dumps({"schema_version": "1.0", "target": "t", "model": "m", "known": [1]}),
        json.dumps({"schema_version": "1.0", "target": "t", "model": "m", "known": [{**GOOD, "code": 1}]}),
        json.dumps({"schema_version": "1.0", "target": "t", "model": "m", "known": [{**GOOD, "count": 10**12}]}),
        json.dumps({"schema_version": "1.0", "target": "t", "model": "m", "known": [{**GOOD, "count": True}]}),
        json.dumps({"schema_version": "1.0", "target": "t", "model": "m", "known": [{**GOOD, "severity": "fatal"}]}),
    ],
)  # fmt: skip
def test_what_is_no_baseline(tmp_path, text):
    (tmp_path / "known.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PorterError) as caught:
        read_baseline(tmp_path / "known.json")
    assert caught.value.code == "PT531" and "known.json" in caught.value.message


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_pair_takes_each_item_once(before, after):
    pairs, gone, new = pair(before, after, (lambda n: n, lambda n: n % 2))
    assert sorted([i for i, _ in pairs] + gone) == list(range(len(before)))
    assert sorted([j for _, j in pairs] + new) == list(range(len(after)))
    equal = sum((Counter(before) & Counter(after)).values())
    assert sum(before[i] == after[j] for i, j in pairs) >= equal
    left = {before[i] % 2 for i in gone} & {after[j] % 2 for j in new}
    assert not left
