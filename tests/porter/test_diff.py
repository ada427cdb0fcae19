# SPDX-License-Identifier: Apache-2.0
"""The difference of two reports: what is new, gone, worse or better; a report's file survives the round trip."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest
import reports
from hypothesis import given
from hypothesis import strategies as st

from porter.diff import diff, read_report
from porter.errors import PorterError
from porter.findings import VERDICTS, Report
from porter.ops import Origin
from porter.report.json import schema, to_json


def write(report, path):
    path.write_text(to_json(report))
    return path


def changes(made):
    return [(one.change, one.op.kind, one.op.name) for one in made.changes]


def verdicts(*pairs):
    return reports.report(
        [reports.op(kind, f"{kind}_{i}", verdict, Origin(module="m"), reason="PT101: no")
         for i, (kind, verdict) in enumerate(pairs)]
    )  # fmt: skip


def test_a_report_is_read_as_it_was(tmp_path):
    report = reports.report()
    again = read_report(write(report, tmp_path / "a.json"))
    bare = dataclasses.replace(report, ops=tuple(dataclasses.replace(op, op=None) for op in report.ops))
    assert again == bare


def test_nothing_changed(tmp_path):
    made = diff(write(reports.report(), tmp_path / "a.json"), write(reports.report(), tmp_path / "b.json"))
    assert made.changes == () and not made.worse


def test_worse_and_better():
    made = diff(verdicts(("amax", "rewrite"), ("silu", "unsupported")), verdicts(("amax", "unknown"), ("silu", "fold")))
    assert changes(made) == [("worse", "amax", "amax_0"), ("better", "silu", "silu_1")]
    assert made.worse and made.summary == {"worse": 1, "better": 1}


def test_new_and_gone():
    made = diff(verdicts(("relu", "native"), ("silu", "rewrite")), verdicts(("relu", "native"), ("topk", "host")))
    assert changes(made) == [("new", "topk", "topk_1"), ("gone", "silu", "silu_1")] and made.worse


def test_fewer_is_not_worse():
    made = diff(verdicts(("silu", "rewrite"), ("relu", "native")), verdicts(("conv2d", "native")))
    assert changes(made) == [("gone", "silu", "silu_0")] and not made.worse


def test_an_exporter_that_numbers_nodes_anew_changes_nothing():
    def nodes(start):
        made = [reports.op("amax", f"Max_{start + i}", "rewrite", reason="PT101: no") for i in range(20)]
        return reports.report(made)

    assert diff(nodes(0), nodes(7)).changes == ()


def test_two_targets():
    before, after = reports.report(), reports.report()
    after = dataclasses.replace(after, target="mlu220")
    data = diff(before, after).to_json()
    jsonschema.Draft202012Validator(schema("diff")).validate(data)
    assert (data["before"]["target"], data["after"]["target"]) == ("mlu270", "mlu220")


ops = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(sorted(VERDICTS))), max_size=8)


@given(ops, ops)
def test_backwards_is_the_mirror_image(one, other):
    there, back = diff(verdicts(*one), verdicts(*other)), diff(verdicts(*other), verdicts(*one))
    jsonschema.Draft202012Validator(schema("diff")).validate(there.to_json())
    mirror = {"new": "gone", "gone": "new", "worse": "better", "better": "worse"}
    assert {mirror[change]: n for change, n in there.summary.items()} == back.summary
    # The counts add up: what a verdict has gained is what the changes say.
    gained = len(other) - sum(v == "native" for _, v in other) - (len(one) - sum(v == "native" for _, v in one))
    moved = sum((c.after is not None and c.after.verdict != "native") - (c.before is not None and c.before.verdict
                != "native") for c in there.changes)  # fmt: skip
    assert gained == moved


def broken(**change):
    return json.dumps({**reports.report().to_json(), **change})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "\xff", "[" * 100_000, broken(schema_version="9.0"), broken(ops=3), broken(ops=[3]),
     broken(ops=[{}]), broken(target=None), broken(findings=[{"code": 1}]),
     broken(ops=[{"kind": "k", "name": "n", "verdict": "fine", "reasons": [], "rewrites": [], "origin": {}}]),
     broken(ops=[{"kind": "k", "name": "n", "verdict": "fold", "reasons": "no", "rewrites": [], "origin": {}}])],
)  # fmt: skip
def test_what_is_no_report(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PorterError) as caught:
        read_report(tmp_path / "a.json")
    assert caught.value.code == "PT533" and "a.json" in caught.value.message


def test_an_empty_report_has_no_changes():
    assert diff(Report("t", "m", (), ()), Report("t", "m", (), ())).changes == ()
