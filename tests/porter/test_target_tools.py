# SPDX-License-Identifier: Apache-2.0
"""What one has who writes a target: skeleton, lint, diff, schema, pages, and the commands."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from porter.cli import app
from porter.errors import PorterError
from porter.report.target_pages import pages
from porter.report.targets import target_page
from porter.target import Target
from porter.target_diff import diff_targets
from porter.target_lint import lint
from porter.target_new import new_target
from porter.target_schema import target_schema

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
[target]
name = "t"
[runtime]
framework = "any"
dtypes = ["float32"]
[runtime.about]
framework = { source = "doc" }
dtypes = { source = "doc" }
[sources.doc]
cite = "Manual 1.0"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def save(body: str, head: str = HEAD, name: str = "t.toml") -> Path:
        path = tmp_path / name
        path.write_text(head + body, encoding="utf-8")
        return path

    return save


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["targets", *args], catch_exceptions=True)
    if isinstance(result.exception, PorterError):
        raise result.exception
    return result.exit_code, result.output


# -- new -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [None, "x5", "mlu270", "onnxruntime"])
def test_skeleton_loads_and_lints(tmp_path: Path, base: str | None) -> None:
    path = new_target("my-chip", tmp_path / "my.toml", base)
    target = Target.load(path)
    assert (target.name, target.extends) == ("my-chip", base)
    assert lint(path) == []
    if base:
        assert target.ops.keys() == Target.load(base).ops.keys()
    assert "porter targets lint" in path.read_text()
    jsonschema.validate(tomllib.loads(path.read_text()), target_schema())


def test_skeleton_that_extends_a_file(tmp_path: Path, write: Callable[..., Path]) -> None:
    base = write('[ops.add]\nsource = "doc"\n')
    (tmp_path / "deep").mkdir()
    path = new_target("mine", tmp_path / "deep" / "my.toml", str(base))
    assert set(Target.load(path).ops) == {"add"}


@pytest.mark.parametrize(
    ("name", "base", "code"),
    [("my chip", None, "PT544"), ("", None, "PT544"), ("a/b", None, "PT544"), ("a", "x9", "PT508")],
)
def test_new_refuses(tmp_path: Path, name: str, base: str | None, code: str) -> None:
    with pytest.raises(PorterError) as caught:
        new_target(name, tmp_path / "my.toml", base)
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


def test_new_replaces_nothing_by_itself(tmp_path: Path) -> None:
    path = new_target("a", tmp_path / "my.toml")
    path.write_text("mine")
    with pytest.raises(PorterError):
        new_target("a", path)
    assert path.read_text() == "mine"
    assert Target.load(new_target("a", path, overwrite=True)).name == "a"


# -- lint ------------------------------------------------------------------------------------------------------------

DOUBTS = [
    ("[ops.add]\n", "PT541", "what is said of add is certain and has no source", "11, ops.add"),
    ("[ops.add]\ncertainty = 'likely'\n", "PT540", "what is said of add has no source", "11, ops.add"),
    ("[[group]]\nkinds = ['add', 'sub']\n", "PT541", "this group (add, sub, ...)", "11, group.0"),
    ("[performance]\ncores = 2\n", "PT541", "performance.cores is certain", "12, performance.cores"),
    ("[sources.other]\ncite = 'x'\n", "PT543", "nothing cites the source 'other'", "11, sources.other"),
    ("[limits.small]\nexpr = 'in_h < 3'\nwhy = 'w'\n", "PT543", "no op has the limit 'small'", "11, limits.small"),
]
IDLE = [
    ("in_h <= 7", "in_h <= 9", 1),
    ("in_h <= 9", "in_h <= 7", 0),
    ("in_h < 8", "in_h <= 8", 1),
    ("in_h <= 8", "in_h <= 8", 1),
    ("2 <= in_h <= 8", "in_h >= 1", 1),
    ("in_h <= 7 and in_w <= 7", "in_w <= 7", 1),
    ("in_h <= 7", "1 == 1", 1),
]
FINE = [
    ("in_h <= 7", "in_w <= 9"),
    ("in_h <= 7", "in_h >= 2"),
    ("in_h <= 7", "in_h * 2 <= 20"),
    ("in_h != 7", "in_h != 8"),
]


@pytest.mark.parametrize(("body", "code", "words", "where"), DOUBTS)
def test_doubt(write: Callable[..., Path], body: str, code: str, words: str, where: str) -> None:
    path = write(body)
    (found,) = lint(path)
    assert found.code == code
    assert words in found.message
    assert found.where == f"{path}:{where}"


def limits(*texts: str, more: str = "") -> str:
    listed = "".join(f'  {{ expr = "{text}", why = "w" }},\n' for text in texts)
    return f'[ops.add]\nsource = "doc"\n{more}limits = [\n{listed}]\n'


@pytest.mark.parametrize(("first", "second", "idle"), IDLE)
def test_limit_that_decides_nothing(write: Callable[..., Path], first: str, second: str, idle: int) -> None:
    (found,) = lint(write(limits(first, second)))
    assert found.code == "PT542"
    assert repr((first, second)[idle]) in found.message
    assert found.where.endswith(f":{14 + idle}, ops.add.limits.{idle}")


@pytest.mark.parametrize(("first", "second"), FINE)
def test_limits_that_decide(write: Callable[..., Path], first: str, second: str) -> None:
    assert lint(write(limits(first, second))) == []


def test_a_limit_that_only_makes_unknown_is_no_narrower_one(write: Callable[..., Path]) -> None:
    text = limits("in_h <= 9", "in_h <= 7").replace('"in_h <= 7", why', '"in_h <= 7", certainty = "unknown", why')
    assert lint(write(text)) == []


@pytest.mark.parametrize("more", ["device = 'host'\n", "device = 'none'\n"])
def test_limits_of_what_never_runs(write: Callable[..., Path], more: str) -> None:
    (found,) = lint(write(limits("in_h <= 7", more=more)))
    assert found.code == "PT542" and "never runs on the accelerator" in found.message
    assert lint(write(limits("in_h <= 7", more="device = 'host'\nopt_in = 'say so'\n"))) == []


def test_a_file_with_a_mistake_is_an_error(write: Callable[..., Path]) -> None:
    with pytest.raises(PorterError) as caught:
        lint(write("[ops.conv2dd]\n"))
    assert (caught.value.code, caught.value.fix) == ("PT509", "Did you mean 'conv2d'?")


@pytest.mark.parametrize("name", [name for name in Target.names() if not name.startswith("mlu")])
def test_our_own_files_have_no_doubts(name: str) -> None:
    assert [str(doubt) for doubt in lint(name)] == []


# -- fallback, opt-in, limits of every op ------------------------------------------------------------------------------


def test_every(write: Callable[..., Path]) -> None:
    body = """\
[limits.small]
every = true
expr = "in_n <= 4"
why = "w"
source = "doc"
[[group]]
kinds = ["add", "relu"]
source = "doc"
[ops.exp]
device = "host"
source = "doc"
[ops.mul]
source = "doc"
limits = ["small"]
"""
    target = Target.load(write(body))
    assert [len(target.ops[kind].limits) for kind in ("add", "relu", "exp", "mul")] == [1, 1, 0, 1]


def test_opt_in_belongs_to_the_host(write: Callable[..., Path]) -> None:
    with pytest.raises(PorterError) as caught:
        Target.load(write("[ops.add]\nopt_in = 'say so'\n"))
    assert caught.value.where is not None and caught.value.where.endswith(":12, ops.add.opt_in")


# -- diff ------------------------------------------------------------------------------------------------------------


def test_diff(write: Callable[..., Path]) -> None:
    body = "[ops.add]\nlimits = [{ expr = 'in_h <= 7', why = 'a' }]\n[ops.sub]\n[ops.exp]\ndevice = 'host'\n"
    before = Target.load(write(body))
    after = body.replace("<= 7", "<= 8").replace("ops.sub", "ops.mul").replace("'host'", "'none'")
    made = diff_targets(before, Target.load(write(after + "[model]\nmax_outputs = 3\n", name="u.toml")))
    assert (made.only_before, made.only_after) == (("sub",), ("mul",))
    assert [(one.what, one.before, one.after) for one in made.ops] == [
        ("add.limits", "in_h <= 7", None),
        ("add.limits", None, "in_h <= 8"),
        ("exp.device", "host", "none"),
    ]
    assert [(one.what, one.before, one.after) for one in made.sections] == [("model.max_outputs", None, 3)]
    assert not made.same
    json.dumps(made.to_json())


@pytest.mark.parametrize("name", Target.names())
def test_a_target_is_the_same_as_itself(name: str) -> None:
    assert diff_targets(Target.load(name), Target.load(name)).same


def test_diff_of_ours() -> None:
    made = diff_targets(Target.load("x5"), Target.load("j5"))
    said = {one.what for one in made.ops}
    assert {"prelu.device", "erf.device", "conv2d.limits", "grid_sample.limits"} <= said
    assert "slice.limits" not in said and "permute.device" not in said


# -- schema and pages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", Target.names())
def test_our_own_files_fit_the_schema(name: str) -> None:
    jsonschema.validate(tomllib.loads(Target.load(name).path.read_text(encoding="utf-8")), target_schema())


WRONG: list[dict[str, Any]] = [
    {},
    {"target": {}},
    {"target": {"name": "t", "nme": 1}},
    {"target": {"name": "t"}, "ops": {"conv2dd": {}}},
    {"target": {"name": "t"}, "ops": {"add": {"device": "cpu"}}},
    {"target": {"name": "t"}, "ops": {"add": {"dtypes": ["flaot32"]}}},
    {"target": {"name": "t"}, "ops": {"add": {"limits": [{"expr": "in_h < 3"}]}}},
    {"target": {"name": "t"}, "runtime": {"opset": "11"}},
    {"target": {"name": "t"}, "runtime": {"about": {"opst": {}}}},
    {"target": {"name": "t"}, "quantization": {"flow": "tensor"}},
    {"target": {"name": "t"}, "group": [{"device": "host"}]},
]


@pytest.mark.parametrize("data", WRONG)
def test_the_schema_refuses_what_porter_refuses(data: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, target_schema())


def test_the_published_schema_is_up_to_date() -> None:
    published = (ROOT / "porter/schema/target.schema.json").read_text(encoding="utf-8")
    assert json.loads(published) == target_schema(), "make pages"


def test_the_pages_are_up_to_date() -> None:
    folder = ROOT / "docs/targets"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == pages(), "make pages"


def test_page_says_what_the_file_says() -> None:
    page = target_page(Target.load("x5"))
    assert "| conv_transpose2d (ConvTranspose) |" in page
    assert "`kernel_h <= 31 and kernel_w <= 31`: a kernel of the BPU is 1 to 31 wide and high" in page
    assert "w8a16 int8, int16" in page
    assert page.count("a tensor has at most 1 GiB") == 1  # what every op has is said once
    assert "## Not known (1)" in target_page(Target.load("nash-e"))


# -- commands --------------------------------------------------------------------------------------------------------


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out = run()
    assert code == 0 and all(name in out for name in Target.names())
    assert run("x5") == run("show", "x5")
    code, out = run("show", "x5", "--markdown")
    assert (code, out) == (0, target_page(Target.load("x5")))
    assert run("new", "mine", "--extends", "x5", "-o", "mine.toml") == (0, "mine.toml\n")
    assert run("lint", "mine.toml") == (0, "mine.toml loads; nothing in it is doubtful.\n")
    code, out = run("diff", "x5", "./mine.toml")
    assert (code, out) == (0, "x5 and mine say the same.\n")
    code, out = run("diff", "x5", "j5", "--format", "json")
    assert code == 0 and json.loads(out)["before"] == "x5"
    code, out = run("schema")
    assert code == 0 and json.loads(out) == target_schema()
    assert run("schema", "-o", "s.json") == (0, "s.json\n")
    assert json.loads(Path("s.json").read_text()) == target_schema()
    code, out = run("pages", "docs")
    assert code == 0 and (tmp_path / "docs" / "x5.md").is_file()
    with pytest.raises(PorterError, match=r"cannot write mine\.toml") as caught:
        run("pages", "mine.toml")
    assert caught.value.code == "PT510"
    head = HEAD.replace("[runtime.about]", "[sources.other]\ncite = 'x'\n[runtime.about]")
    Path("bad.toml").write_text(head, encoding="utf-8")
    code, out = run("lint", "bad.toml")
    assert code == 1 and out.endswith("bad.toml loads; 1 doubt.\n") and "PT543" in out
    with pytest.raises(PorterError) as caught:
        run("mlu271")
    assert caught.value.code == "PT508" and "mlu270" in str(caught.value.fix)
