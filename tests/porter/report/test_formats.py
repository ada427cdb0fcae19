# SPDX-License-Identifier: Apache-2.0
"""The table of formats, the JSON Schemas, and what the command line makes of both."""

from __future__ import annotations

import json

import jsonschema
import pytest
import reports

from porter.baseline import Baseline, judge
from porter.cli.check import ReportFormat
from porter.errors import PorterError
from porter.places import Places
from porter.report.formats import FORMATS, Context, format_of, render
from porter.report.json import schema


def test_the_command_line_has_the_formats_of_the_table():
    assert [one.value for one in ReportFormat] == list(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_suffix_names_its_format_and_every_format_renders(name, tmp_path):
    assert format_of(f"a/b{FORMATS[name].suffix.upper()}") == name
    gate, paths = reports.gate(tmp_path)
    assert "nonzero" in render(name, gate, Context("Cambricon MLU270", None, paths))
    assert render(name, judge(reports.report([])), Context("Cambricon MLU270", None, paths))


@pytest.mark.parametrize("name", ["report.pdf", "report", ".sarif.gz"])
def test_an_unknown_suffix(name):
    with pytest.raises(PorterError) as caught:
        format_of(name)
    assert caught.value.code == "PT530" and ".sarif (sarif)" in caught.value.fix


@pytest.mark.parametrize("name", ["report", "baseline", "diff"])
def test_the_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("baseline", [None, Baseline("mlu270", "net.onnx", (), "known.json")])
def test_the_json_report_is_valid(tmp_path, baseline):
    gate, paths = reports.gate(tmp_path, baseline=baseline)
    data = json.loads(render("json", gate, Context("x", None, paths)))
    jsonschema.Draft202012Validator(schema("report")).validate(data)
    assert (data.get("baseline") is None) == (baseline is None)
    if baseline:
        assert data["baseline"] == {"file": "known.json", "new": [0, 1, 2, 3, 4], "known": 0, "gone": 0}


@pytest.mark.parametrize(
    ("path", "value"),
    [(["ok"], "yes"), (["ops", 0, "verdict"], "fine"), (["findings", 0, "code"], "E1"), (["schema_version"], "2.0")],
)
def test_the_schema_refuses_what_is_wrong(tmp_path, path, value):
    data = reports.report().to_json()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema("report")).validate(data)


def test_text_with_a_baseline_shows_what_is_new(tmp_path):
    gate, paths = reports.gate(tmp_path, baseline=Baseline("mlu270", "net.onnx", (), "known.json"))
    text = render("text", gate, Context("x", None, paths))
    assert "5 new findings, 0 known, 0 gone (baseline known.json)" in text and "\x1b" not in text
    assert "\x1b[" in render("text", gate, Context("x", None, Places(tmp_path), color=True))
