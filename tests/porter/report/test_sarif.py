# SPDX-License-Identifier: Apache-2.0
"""SARIF: valid by the schema of OASIS, on the right lines, with relative and escaped addresses."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import reports

from porter.baseline import Baseline, judge
from porter.errors import explain
from porter.ops import Origin
from porter.report.formats import Context, render

SCHEMA = json.loads((Path(__file__).parent / "vendor" / "sarif-schema-2.1.0.json").read_text())


def sarif(gate, paths, model=None):
    log = json.loads(render("sarif", gate, Context("Cambricon MLU270", model, paths)))
    jsonschema.Draft4Validator(SCHEMA).validate(log)
    (run,) = log["runs"]
    return run


def test_results_are_on_the_lines_of_the_source(tmp_path):
    run = sarif(*reports.gate(tmp_path))
    found = {r["properties"]["kind"]: r for r in run["results"]}
    assert set(found) == {"shape", "slice_assign", "nonzero", "silu", "topk"}
    (place,) = found["nonzero"]["locations"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "net/head.py", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 7},
    }
    assert {"fullyQualifiedName": "head", "kind": "module"} in place["logicalLocations"]
    assert found["nonzero"]["level"] == "error" and found["silu"]["level"] == "warning"
    assert run["results"][0] == found["nonzero"]  # the worst comes first
    assert "change the model" in found["nonzero"]["message"]["text"]


def test_rules_are_the_explain_pages(tmp_path):
    run = sarif(*reports.gate(tmp_path))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["PT101", "PT102", "PT105"]
    assert rules[0]["help"]["markdown"] == explain("PT101")
    assert rules[0]["fullDescription"]["text"].startswith("The target's file says")
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]


def test_without_a_source_line_the_place_is_the_model(tmp_path):
    paths = reports.source(tmp_path)
    model = tmp_path / "my nets" / "net 100%.onnx"
    model.parent.mkdir()
    model.touch()
    run = sarif(judge(reports.report(), places=paths), paths, model)
    (place,) = next(r for r in run["results"] if r["properties"]["kind"] == "topk")["locations"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "my%20nets/net%20100%25.onnx", "uriBaseId": "%SRCROOT%"}
    }
    assert place["logicalLocations"] == [{"name": "topk", "kind": "element"}]


def test_no_absolute_path_leaves_the_machine(tmp_path):
    outside = Origin("/usr/lib/python3/site-packages/torch/functional.py", 12)
    made = reports.op("nonzero", "n", "unsupported", outside, reason="PT101: there is no nonzero")
    (tmp_path / "in").mkdir()
    paths = reports.source(tmp_path / "in")
    run = sarif(judge(reports.report([made]), places=paths), paths, tmp_path / "net.onnx")
    (result,) = run["results"]
    assert "physicalLocation" not in result["locations"][0]
    assert str(tmp_path) not in json.dumps(run) and "/usr/lib" not in json.dumps(run)


def test_what_repeats_at_a_place_is_one_result(tmp_path):
    loop = [
        reports.op("nonzero", f"n{i}", "unsupported", Origin(reports.HEAD, 7, module="head"),
                   reason=f"PT201: {i} <= 0 does not hold")
        for i in range(300)
    ]  # fmt: skip
    paths = reports.source(tmp_path)
    run = sarif(judge(reports.report(loop), places=paths), paths)
    (result,) = run["results"]
    assert result["occurrenceCount"] == 300 and len(result["locations"][0]["logicalLocations"]) == 21
    assert "nonzero x300" in result["message"]["text"]


def test_a_baseline_marks_what_is_new(tmp_path):
    paths = reports.source(tmp_path)
    known = Baseline("mlu270", "net.onnx", ())
    run = sarif(judge(reports.report(), baseline=known, places=paths), paths)
    assert {r["baselineState"] for r in run["results"]} == {"new"}


def test_fingerprints_survive_a_shift_of_lines(tmp_path):
    before = sarif(*reports.gate(tmp_path))
    paths = reports.source(tmp_path / "later", "# a comment\n\n" + reports.SOURCE)
    after = sarif(judge(reports.report(reports.ops(shift=2)), places=paths), paths)

    def marks(run):
        return {r["properties"]["kind"]: r["partialFingerprints"] for r in run["results"]}

    assert marks(before) == marks(after)
    lines = [r["locations"][0].get("physicalLocation", {}).get("region") for r in after["results"]]
    assert {"startLine": 9} in lines


def test_a_legal_model_has_no_results(tmp_path):
    run = sarif(judge(reports.report(reports.ops()[:1])), reports.source(tmp_path))
    assert run["results"] == [] and run["tool"]["driver"]["rules"] == []


def test_the_schema_refuses_what_is_wrong(tmp_path):
    run = sarif(*reports.gate(tmp_path))
    run["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(SCHEMA).validate({"version": "2.1.0", "runs": [run]})
