# SPDX-License-Identifier: Apache-2.0
"""`porter check` as a gate and `porter diff`, as a CI job calls them; what docs/ci.md shows is right."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from models import conv_net, model, save
from typer.main import get_command

from porter import cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


@pytest.fixture
def net(tmp_path):
    """Legal after a rewrite."""
    return save(conv_net(), tmp_path / "net.onnx")


@pytest.fixture
def bad(tmp_path):
    """Not legal."""
    return save(model("net (float[2, 3] x) => (int64[2, n] y) { y = NonZero (x) }"), tmp_path / "bad.onnx")


def test_portable_decides_the_exit_code(porter, net, bad):
    assert porter("check", "-t", "mlu270", net)[0] == 1
    assert porter("check", "-t", "mlu270", "--portable", net)[0] == 0
    assert porter("check", "-t", "mlu270", "--portable", bad)[0] == 1


def test_one_check_writes_every_report(porter, net, tmp_path):
    names = ["r.sarif", "r.html", "r.md", "r.xml", "r.json", "r.github", "r.txt"]
    outputs = [word for name in names for word in ("-o", name)]
    code, out, _ = porter("check", "-t", "mlu270", net, *outputs)
    assert code == 1 and "hardswish" in out
    for name in names:
        assert "hardswish" in (tmp_path / name).read_text(encoding="utf-8").lower()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "net.onnx"])
    assert "\x1b" not in (tmp_path / "r.txt").read_text()


def test_a_baseline_from_writing_to_failing(porter, net, bad):
    assert porter("check", "-t", "mlu270", bad, "--write-baseline", "known.json")[0] == 0
    code, out, _ = porter("check", "-t", "mlu270", bad, "--baseline", "known.json")
    assert code == 0 and "no new findings, 1 known, 0 gone (baseline known.json)" in out
    code, out, _ = porter("check", "-t", "mlu270", net, "--baseline", "known.json")
    assert code == 1 and "1 new finding, 0 known, 1 gone" in out and "hardswish" in out
    code, out, _ = porter("check", "-t", "mlu270", net, "--baseline", "known.json", "--portable")
    assert code == 0 and "1 accepted" in out


def test_several_models_one_after_the_other(porter, net, bad):
    code, out, _ = porter("check", "-t", "mlu270", "--portable", net, bad)
    assert code == 1 and out.index("net.onnx") < out.index("bad.onnx")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-o", "r.pdf"], "PT530"),
        (["-o", "r.sarif", "-o", "nowhere/r.html"], "PT510"),
        (["-o", "net.onnx.txt/r.html"], "PT510"),
        (["--baseline", "none.json"], "PT501"),
        (["--baseline", "net.onnx"], "PT531"),
        (["net.onnx", "-f", "html"], "PT534"),
        (["net.onnx", "-o", "r.sarif"], "PT534"),
        (["net.onnx", "--write-baseline", "k.json"], "PT534"),
    ],
)
def test_bad_input_writes_nothing(porter, net, tmp_path, arguments, code):
    status, out, err = porter("check", "-t", "mlu270", net, *arguments)
    assert status == 2 and err.startswith(code) and out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes")
def test_a_model_whose_name_is_no_utf8(porter, net, tmp_path):
    odd = tmp_path / "n\udcff.onnx"
    net.rename(odd)
    outputs = [word for name in ("r.sarif", "r.html", "r.md", "r.xml", "r.json", "r.github") for word in ("-o", name)]
    assert porter("check", "-t", "mlu270", odd, *outputs, "--write-baseline", "known.json")[0] == 0
    assert "n%FF.onnx" in (tmp_path / "r.sarif").read_text()
    assert porter("check", "-t", "mlu270", odd, "--baseline", "known.json")[0] == 0


def test_an_output_is_not_replaced_unless_asked(porter, net, tmp_path):
    (tmp_path / "r.md").write_text("mine")
    assert porter("check", "-t", "mlu270", net, "-o", "r.md")[0] == 2
    assert (tmp_path / "r.md").read_text() == "mine"
    assert porter("check", "-t", "mlu270", net, "-o", "r.md", "--overwrite")[0] == 1
    assert "hardswish" in (tmp_path / "r.md").read_text()
    assert porter("check", "-t", "mlu270", net, "-o", net, "--overwrite")[0] == 2


def test_diff_of_two_reports(porter, net, bad):
    porter("check", "-t", "mlu270", net, "-o", "a.json")
    porter("check", "-t", "mlu270", bad, "-o", "b.json")
    code, out, _ = porter("diff", "a.json", "b.json")
    assert code == 1 and re.search(r"new nonzero +unsupported", out) and "worse: 1 new, 1 gone" in out
    code, out, _ = porter("diff", "a.json", "a.json")
    assert code == 0 and "no op changed its verdict" in out
    code, out, _ = porter("diff", "a.json", "b.json", "--format", "json")
    assert code == 1 and json.loads(out)["worse"] is True
    code, _, err = porter("diff", "a.json", "net.onnx")
    assert code == 2 and err.startswith("PT533")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


def test_the_workflows_are_yaml_and_their_commands_exist():
    texts = [*blocks("console"), *re.findall(r"^\| `(.*?)` \|", DOCS, re.MULTILINE)]
    workflow, gitlab, hooks = (yaml.safe_load(block) for block in blocks("yaml"))
    texts += [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    texts += gitlab["porter"]["script"]
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (use,) = hooks["repos"][0]["hooks"]
    assert use["id"] == hook["id"]
    texts.append(" ".join([hook["entry"], *use["args"], "net.onnx"]))
    commands = get_command(cli.app).commands
    seen = 0
    for line in re.findall(r"porter ((?:check|diff) [^\n]*)", "\n".join(texts)):
        name, *words = shlex.split(line)
        with commands[name].make_context(name, words):
            seen += 1
    assert seen >= 9


def test_the_yaml_of_the_docs_names_every_format():
    from porter.report.formats import FORMATS

    table = re.findall(r"^\| (\w+) \| (\.\w+) \|", DOCS, re.MULTILINE)
    assert table == [(name, made.suffix) for name, made in FORMATS.items()]
