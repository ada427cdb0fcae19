# SPDX-License-Identifier: Apache-2.0
"""JUnit XML: valid by the schema, a case for each op, and well-formed whatever a model's names are."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import reports
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.baseline import Baseline, judge
from porter.places import Places
from porter.report.formats import Context, render

SCHEMA = xmlschema.XMLSchema(Path(__file__).parent / "junit.xsd")


def junit(gate, paths=None):
    text = render("junit", gate, Context("Cambricon MLU270", None, paths or Places()))
    SCHEMA.validate(text)
    return ElementTree.fromstring(text.encode())


def test_a_case_for_each_op(tmp_path):
    root = junit(*reports.gate(tmp_path))
    (suite,) = root.findall("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("6", "5", "0")
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert len(cases["conv2d conv"]) == 0
    case = cases["nonzero nonzero"]
    assert case.get("classname") == "mlu270.head"
    (failure,) = case
    assert failure.get("type") == "PT101" and failure.get("message").startswith(
        "PT101 unsupported: there is no nonzero"
    )
    assert "at net/head.py:7 in head" in failure.text and "fix: change the model" in failure.text


def test_known_is_skipped_and_accepted_passes(tmp_path):
    gate, paths = reports.gate(tmp_path, portable=True)
    root = junit(gate, paths)
    assert root.get("failures") == "3"
    everything = judge(reports.report(), baseline=_all(tmp_path), places=paths)
    root = junit(everything, paths)
    assert root.get("failures") == "0" and root.find("testsuite").get("skipped") == "5"


def _all(root):
    from porter.baseline import read_baseline, write_baseline

    write_baseline(reports.report(), root / "known.json", places=Places(root))
    known = read_baseline(root / "known.json")
    assert isinstance(known, Baseline)
    return known


@settings(max_examples=40)
@given(st.text(max_size=30), st.text(max_size=30))
def test_well_formed_whatever_the_names(kind, name):
    made = reports.op(kind, name, "unsupported", reason=f"PT101: {name}\x00\x1b[31m]]>")
    root = junit(judge(reports.report([made])))
    assert root.get("failures") == "1"
