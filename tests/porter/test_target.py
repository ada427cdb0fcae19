# SPDX-License-Identifier: Apache-2.0
"""Target files: every mistake is reported with line and key; inheritance; and judgements that give every reason."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import target_file, toml_lines
from porter.errors import PorterError
from porter.ops import Op, Value
from porter.target import Target

HEAD = """\
[target]
name = "t"
source = "doc"
[sources]
doc = { cite = "Manual 1.0" }
[runtime]
framework = "any"
dtypes = ["float32", "int32"]
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Target]:
    """Writes a target's text (below the usual head) to a file and loads it."""

    def load(body: str, head: str = HEAD, name: str = "t.toml") -> Target:
        path = tmp_path / name
        path.write_text(head + body, encoding="utf-8")
        return Target.load(path)

    return load


def value(name: str, *shape: int, dtype: str = "float32", const: bool = False) -> Value:
    return Value(name, shape, dtype, np.zeros(shape, dtype) if const else None)


def unary(kind: str, *shape: int, dtype: str = "float32", **attrs: Any) -> Op:
    return Op(kind, (value("x", *shape, dtype=dtype),), (value("y", *shape, dtype=dtype),), attrs)


def codes(target: Target, op: Op) -> tuple[str, list[str]]:
    judgement = target.judge(op)
    return judgement.verdict, [reason.code for reason in judgement.reasons]


# -- mistakes ----------------------------------------------------------------------------------------------------

MISTAKES = [
    # body, line below the head, key, words of the message, fix
    ("[runtme]\n", 1, "runtme", "is not a table of a target", "'runtime'"),
    ("[ops.conv2d]\nsuported = true\n", 2, "ops.conv2d.suported", "'suported' is not a key of an op", "names, device"),
    ("[ops.conv2d]\ndtype = []\n", 2, "ops.conv2d.dtype", "is not a key", "'dtypes'"),
    ("\n\n[ops.conv2\u0064x]\n", 3, "ops.conv2dx", "is not an op kind", "'conv2d'"),
    ("[ops.conv2d]\ndtypes = 'float32'\n", 2, "ops.conv2d.dtypes", "must be an array, not a string", None),
    (
        "[ops.conv2d]\ndtypes = [\n  'float32',\n  'flaot16',\n]\n",
        4,
        "ops.conv2d.dtypes[1]",
        "not a dtype",
        "'float16'",
    ),
    ("[ops.add]\ndtypes = ['float32', 3]\n", 2, "ops.add.dtypes[1]", "must be a string, not a whole number", None),
    ("[ops.add]\ndevice = 'cpu'\n", 2, "ops.add.device", "'cpu' is not a value", "accelerator, host, none"),
    ("[ops.add]\ncertainty = 'certan'\n", 2, "ops.add.certainty", "'certan' is not a value", "'certain'"),
    ("[ops.add]\nsource = 'docs:3'\n", 2, "ops.add.source", "not a name in [sources]", "'doc'"),
    ("[ops.add]\nsource = ['doc', 'x']\n", 2, "ops.add.source", "not a name in [sources]", "It can be doc."),
    ("[ops.conv2d]\nconst_inputs = ['wieght']\n", 2, "ops.conv2d.const_inputs[0]", "operand of conv2d", "'weight'"),
    ("[ops.add]\noperand_dtypes = { z = ['int32'] }\n", 2, "ops.add.operand_dtypes.z", "operand of add", "x, y"),
    ("[ops.add]\noperand_dtypes = { x = ['in32'] }\n", 2, "ops.add.operand_dtypes.x[0]", "not a dtype", "'int32'"),
    ("[ops.eq]\noutput_dtypes = [['bol']]\n", 2, "ops.eq.output_dtypes[0][0]", "not a dtype", "'bool'"),
    (
        "[ops.conv2d]\nlimits = [\n  # a comment with ] and }\n  { why = 'a, \"b\" = [', expr = 'kernel_h <= in_h' },\n"
        "  { expr = 'kernal_h <= in_h', why = '' },\n]\n",
        5,
        "ops.conv2d.limits[1].expr",
        "there is no fact 'kernal_h'",
        "'kernel_h'",
    ),
    (
        "[ops.add]\nlimits = [{ expr = '''in_h\n <= kernel_h''', why = 'no kernel here' }]\n",
        2,
        "ops.add.limits[0].expr",
        "there is no fact 'kernel_h' of this op (op add)",
        "The names are",
    ),
    (
        "[ops.add]\nlimits = [{ expr = 'in_h <= ', why = '' }]\n",
        2,
        "ops.add.limits[0].expr",
        "is not an expression",
        None,
    ),
    ("[ops.add]\nlimits = [{ expr = 'broadcast' }]\n", 2, "ops.add.limits[0]", "a limit lacks 'why'", None),
    (
        "[ops.add]\nlimits = [{ expr = 'in_h < 3', why = '', when = 'q' }]\n",
        2,
        "ops.add.limits[0].when",
        "no fact 'q'",
        None,
    ),
    ("[ops.add]\nlimits = [{ exp = 'broadcast' }]\n", 2, "ops.add.limits[0].exp", "not a key of a limit", "'expr'"),
    (
        "[limits.small]\nexpr = 'in_h < 3'\nwhy = ''\n[ops.add]\nlimits = ['smal']\n",
        5,
        "ops.add.limits[0]",
        "[limits]",
        "'small'",
    ),
    (
        "[limits.k]\nexpr = 'kernel_h < 3'\nwhy = ''\n[ops.add]\nlimits = ['k']\n",
        5,
        "ops.add.limits[0]",
        "(op add)",
        None,
    ),
    ("[limits]\nsmall = 3\n", 2, "limits.small", "must be a table, not a whole number", None),
    (
        "[[group]]\nkinds = ['add']\n[[group]]\nkinds = ['sub', 'addd']\n",
        4,
        "group[1].kinds[1]",
        "not an op kind",
        "'add'",
    ),
    ("[[group]]\nkinds = ['add']\n\n[ops.add]\n", 2, "group[0].kinds[0]", "named twice: here and in [ops.add]", None),
    ("[[group]]\ndtypes = ['float32']\n", 1, "group[0]", "lacks 'kinds'", None),
    ("[group]\nkinds = ['add']\n", 1, "group", "[[group]]", None),
    (
        "[quantization]\nscheme = 'symetric'\n",
        2,
        "quantization.scheme",
        "not a value of quantization.scheme",
        "'symmetric'",
    ),
    ("[quantization]\nqmax = { int8 = 127, int99 = 1 }\n", 2, "quantization.qmax.int99", "not a dtype", "'int"),
    (
        "[quantization]\nqmax = { int8 = 127.5 }\n",
        2,
        "quantization.qmax.int8",
        "must be a whole number, not a number",
        None,
    ),
    ("[quantization]\nquantized_ops = ['conv2']\n", 2, "quantization.quantized_ops[0]", "not an op kind", "'conv2d'"),
    ("[quantization]\nfloat_when = 'depthwide'\n", 2, "quantization.float_when", "no fact 'depthwide'", "'depthwise'"),
    ("[quantization]\nscheme = 'symmetric'\n", 1, "quantization", "lacks 'qmax'", None),
    (
        "[quantization]\nfirst_conv = { in_channels = [3] }\n",
        2,
        "quantization.first_conv",
        "lacks 'max_out_channels'",
        None,
    ),
    ("[tolerance]\nop_relative = true\n", 2, "tolerance.op_relative", "must be a number, not true or false", None),
    ("[tolerance]\nops = { addd = 0.1 }\n", 2, "tolerance.ops.addd", "not an op kind", "'add'"),
    (
        "[tolerance.about]\nop_relativ = {}\n",
        2,
        "tolerance.about.op_relativ",
        "not a key of [tolerance]",
        "'op_relative'",
    ),
    (
        "[tolerance.about]\nop_relative = { certain = 1 }\n",
        2,
        "tolerance.about.op_relative.certain",
        "said about",
        "'certainty'",
    ),
    ("[artifact]\ncores = [1, '4']\n", 2, "artifact.cores[1]", "must be a whole number, not a string", None),
    ("[artifact]\ncores = 4\n", 2, "artifact.cores", "must be an array, not a whole number", None),
    ("[artifact]\nkind = 1979-05-27\n", 2, "artifact.kind", "must be a string, not a date", None),
    ("[sources.manual]\nurl = 'x'\n", 1, "sources.manual", "lacks 'cite'", None),
    ("[ops]\nadd = 3\n", 2, "ops.add", "must be a table", None),
]


@pytest.mark.parametrize(("body", "line", "key", "words", "fix"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_mistake(make: Callable[..., Target], body: str, line: int, key: str, words: str, fix: str | None) -> None:
    with pytest.raises(PorterError) as caught:
        make(body)
    error = caught.value
    assert error.code == "PT509" and words in error.message
    assert error.where is not None and error.where.endswith(f"t.toml:{HEAD.count(chr(10)) + line}, {key}")
    assert fix is None or (error.fix is not None and fix in error.fix)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[target]\nname = \n", ":2, name"),
        ("[target]\nname = 't'\n[runtime\nframework = 'x'\n", ":3, name"),
        ("[target]\nname = 't'\nname = 'u'\n", ":3, name"),
        ("[target]\nname = 't", ":2, name"),
        ("x = " + "[" * 5000, ":1"),
        ("x = " + "9" * 5000, ":1"),
        ("[target]\n", ":1, target"),
        ("", ":1, target"),
        ("target = 3\n", ":1, target"),
        ("[target]\nname = 't'\n", ":1, runtime"),
    ],
)
def test_not_a_target(make: Callable[..., Target], text: str, where: str) -> None:
    with pytest.raises(PorterError) as caught:
        make(text, head="")
    assert caught.value.code == "PT509"
    assert caught.value.where is not None and where in caught.value.where


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(b"[target]\nname = '\xff'\n")
    with pytest.raises(PorterError, match="UTF-8") as caught:
        Target.load(path)
    assert caught.value.where == f"{path}:2"


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(b"#" * (5 * 2**20))
    with pytest.raises(PorterError, match="larger than 4 MiB"):
        Target.load(path)


@pytest.mark.parametrize("name", Target.names())
def test_every_key_of_our_own_files_is_found_on_its_line(name: str) -> None:
    text = Target.load(name).path.read_text(encoding="utf-8")
    lines, rows = toml_lines.lines(text), text.splitlines()

    def walk(node: Any, path: tuple[str | int, ...]) -> int:
        items: list[tuple[str | int, Any]] = []
        if isinstance(node, dict):
            items = list(node.items())
        elif isinstance(node, list):
            items = list(enumerate(node))
        seen = 0
        for key, item in items:
            at = (*path, key)
            row = rows[lines[at] - 1]
            assert isinstance(key, int) or key in row, f"{at} is not on line {lines[at]}: {row}"
            assert not isinstance(item, str) or isinstance(key, str) or item in row
            seen += 1 + walk(item, at)
        return seen

    assert walk(tomllib.loads(text), ()) >= 20


# -- finding -------------------------------------------------------------------------------------------------------


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(PorterError) as caught:
        Target.load("mlu207")
    assert caught.value.code == "PT508" and caught.value.fix is not None and "mlu2" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("s100", "nash-e"),
        ("RDK X5", "x5"),
        ("rockchip", "rk3566, rk3588, rv1106"),
        ("xgen", "xgen-mobile"),
        ("?", None),
    ],
)
def test_a_chip_or_a_vendor_names_its_targets(text: str, named: str | None) -> None:
    with pytest.raises(PorterError) as caught:
        Target.load(text)
    said = f"Did you mean {named}? " if named else ""
    assert (caught.value.code, caught.value.fix) == ("PT508", f"{said}`porter targets` lists all.")


def test_missing_file() -> None:
    with pytest.raises(PorterError) as caught:
        Target.load("./nowhere/my.toml")
    assert caught.value.code == "PT501"


def test_third_party_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "acme_targets_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "acme1.toml").write_text(HEAD.replace('"t"', '"acme1"'))
    points = [
        EntryPoint("acme1", package.name, "porter.targets"),
        EntryPoint("gone", "no_such_package_of_targets", "porter.targets"),
    ]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(target_file, "_entry_points", lambda: points)
    assert Target.load("acme1").name == "acme1"
    assert {"acme1", "mlu270", "onnxruntime"} <= set(Target.names())
    with pytest.raises(PorterError, match="no_such_package_of_targets"):
        Target.load("gone")
    with pytest.raises(PorterError) as caught:
        Target.load("acme")
    assert caught.value.fix is not None and "acme1" in caught.value.fix


# -- inheritance -----------------------------------------------------------------------------------------------------


def test_extends(make: Callable[..., Target]) -> None:
    make(
        "[runtime.about]\nframework = { certainty = 'likely', note = 'seen once' }\n"
        "[artifact]\nkind = 'a'\ncores = [1, 4]\n"
        "[artifact.about]\ncores = { note = 'by hand' }\n"
        "[ops.add]\ndtypes = ['float32']\n[ops.mul]\nlimits = [{ expr = 'in_h < 3', why = 'w' }]\n",
        name="base.toml",
    )
    child = make(
        "[artifact]\ncores = [2]\n[ops.add]\ndevice = 'none'\n",
        head="[target]\nname = 'c'\nextends = './base.toml'\ninherited_certainty = 'likely'\n",
        name="child.toml",
    )
    assert child.name == "c" and child.extends == "./base.toml"
    assert child.artifact is not None and (child.artifact.kind, child.artifact.cores) == ("a", (2,))
    assert child.artifact.fact("cores").note == "", "what was said of the old value is not said of the new one"
    assert child.runtime.fact("framework").note == "seen once"
    assert codes(child, unary("add", 2)) == ("unsupported", ["PT101"])
    assert child.ops["mul"].certainty == "likely" and child.ops["mul"].limits[0].certainty == "likely"
    assert child.ops["add"].certainty == "certain"
    assert child.ops["mul"].source == "Manual 1.0"


def test_inheriting_never_makes_anything_more_certain(make: Callable[..., Target]) -> None:
    make("[ops.add]\ncertainty = 'unknown'\n[ops.mul]\n", name="base.toml")
    head = "[target]\nname = 'c'\nextends = './base.toml'\ninherited_certainty = 'likely'\n"
    child = make("", head=head, name="child.toml")
    assert (child.ops["add"].certainty, child.ops["mul"].certainty) == ("unknown", "likely")


def test_cycle_names_the_files(make: Callable[..., Target], tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[target]\nname = 'a'\nextends = './b.toml'\n")
    with pytest.raises(PorterError) as caught:
        make("", head="[target]\nname = 'b'\nextends = './a.toml'\n", name="b.toml")
    assert "b.toml extends a.toml extends b.toml" in caught.value.message
    assert caught.value.where is not None and caught.value.where.endswith("a.toml:3, target.extends")


def test_extends_nothing_that_exists(make: Callable[..., Target]) -> None:
    with pytest.raises(PorterError) as caught:
        make("", head="[target]\nname = 'b'\nextends = 'mlu27'\n")
    assert caught.value.code == "PT509" and caught.value.fix is not None and "mlu270" in caught.value.fix


# -- judgements ------------------------------------------------------------------------------------------------------


def test_every_reason_is_reported(make: Callable[..., Target]) -> None:
    target = make(
        "max_rank = 3\n[ops.conv2d]\ndtypes = ['float32']\nconst_inputs = ['weight']\nlimits = [\n"
        "{ expr = 'kernel_h <= in_h', why = 'too tall', source = 'doc:7', certainty = 'likely' },\n"
        "{ expr = 'groups == 1', why = 'no groups' },\n{ expr = 'in_w < 5', why = 'never reached' }]\n"
    )
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 2}
    inputs = value("x", 1, 2, 4, 4, dtype="int64"), value("w", 8, 1, 7, 1), None
    judgement = target.judge(Op("conv2d", inputs, (value("y", 1, 8, 1, 4),), attrs))
    assert judgement.verdict == "unsupported"
    assert [str(reason) for reason in judgement.reasons] == [
        "x of conv2d is int64; it can be float32. The device has no int64 tensors [Manual 1.0, certain]",
        "weight of conv2d is computed when the model runs; it must be a constant [Manual 1.0, certain]",
        "x has rank 4; the highest is 3 [Manual 1.0, certain]",
        "weight has rank 4; the highest is 3 [Manual 1.0, certain]",
        "the result has rank 4; the highest is 3 [Manual 1.0, certain]",
        "kernel_h 7 <= in_h 4 does not hold: too tall [Manual 1.0:7, likely]",
        "groups 2 == 1 does not hold: no groups [Manual 1.0, certain]",
    ]
    assert [reason.code for reason in judgement.reasons] == ["PT103", "PT105", *["PT203"] * 3, "PT201", "PT201"]


@pytest.mark.parametrize(
    ("op", "verdict", "code"),
    [
        ("", "unknown", ["PT102"]),
        ("[ops.relu]\n", "native", []),
        ("[ops.relu]\ncertainty = 'likely'\n", "native", []),
        ("[ops.relu]\ncertainty = 'unknown'\n", "unknown", ["PT102"]),
        ("[ops.relu]\ndevice = 'none'\n", "unsupported", ["PT101"]),
        ("[ops.relu]\ndevice = 'none'\ncertainty = 'unknown'\n", "unknown", ["PT101"]),
        ("[ops.relu]\ndevice = 'host'\n", "host", ["PT104"]),
        ("[ops.relu]\ndtypes = ['int32']\n", "unsupported", ["PT103", "PT103"]),
        ("[ops.relu]\nlimits = [{ expr = 'in_c == 3', why = '' }]\n", "native", []),
        ("[ops.relu]\nlimits = [{ expr = 'in_c == 4', why = '' }]\n", "unsupported", ["PT201"]),
        ("[ops.relu]\nlimits = [{ expr = 'in_c == 4', why = '', certainty = 'unknown' }]\n", "unknown", ["PT201"]),
        ("[ops.relu]\nlimits = [{ expr = 'in_c == 4', why = '', when = 'in_c == 5' }]\n", "native", []),
        ("[ops.relu]\nlimits = [{ expr = 'in_shape[9] == 4', why = '' }]\n", "unknown", ["PT202"]),
        ("[ops.relu]\nlimits = [{ expr = 'in_c == 4', why = '', when = 'in_shape[9] == 1' }]\n", "unknown", ["PT202"]),
        ("[ops.relu]\nlimits = [{ expr = 'in_c == 3', why = '', when = 'in_shape[9] == 1' }]\n", "native", []),
    ],
)
def test_verdict(make: Callable[..., Target], op: str, verdict: str, code: list[str]) -> None:
    assert codes(make(op), unary("relu", 1, 3)) == (verdict, code)


def test_closed_list(make: Callable[..., Target]) -> None:
    closed = make("", head=HEAD.replace("[sources]", "closed = true\n[sources]"))
    assert codes(closed, unary("relu", 1, 3)) == ("unsupported", ["PT101"])


def test_worst_verdict_wins(make: Callable[..., Target]) -> None:
    limits = "[{ expr = 'in_c == 4', why = '', certainty = 'unknown' }, { expr = 'in_n == 4', why = '' }]"
    assert codes(make(f"[ops.relu]\nlimits = {limits}\n"), unary("relu", 1, 3)) == ("unsupported", ["PT201", "PT201"])


def test_shapes_that_are_not_static(make: Callable[..., Target]) -> None:
    op = Op("relu", (Value("x", None, "float32"),), (Value("y", None, "float32"),))
    body = "[ops.relu]\nlimits = [{ expr = 'in_c == 4', why = 'w' }]\n"
    target = make(body)
    assert codes(target, op) == ("unsupported", ["PT204", "PT204", "PT202"])
    assert target.judge(op).reasons[2].text == "cannot tell whether in_c == 4 holds, since in_c is not known: w"
    assert codes(make(body, head=HEAD + "static_shapes = false\n"), op) == ("unknown", ["PT202"])


def test_operand_that_became_dynamic(make: Callable[..., Target]) -> None:
    op = unary("dynamic_slice", 1, 3)
    assert codes(make("[ops.slice]\n"), op) == ("unsupported", ["PT105"])
    assert codes(make("[ops.slice]\n", head=HEAD + "static_shapes = false\n"), op) == ("unknown", ["PT102"])
    assert codes(make("[ops.dynamic_slice]\n"), op) == ("native", [])


def test_unknown_dtype_is_not_passed(make: Callable[..., Target]) -> None:
    op = Op("relu", (Value("x", (1, 3)),), (value("y", 1, 3),))
    assert codes(make("[ops.relu]\n"), op) == ("unknown", ["PT202"])


def test_dtypes_of_operands_and_results(make: Callable[..., Target]) -> None:
    target = make(
        "[ops.embedding]\ndtypes = ['float32']\noperand_dtypes = { index = ['int32'] }\n"
        "[ops.topk]\ndtypes = ['float32']\noutput_dtypes = [['float32'], ['int32']]\n"
    )
    table, out = value("w", 5, 2, const=True), value("y", 1, 2)
    assert codes(target, Op("embedding", (table, value("i", 1, dtype="int32")), (out,))) == ("native", [])
    assert codes(target, Op("embedding", (table, value("i", 1, dtype="int64")), (out,)))[1] == ["PT103"]
    x = value("x", 1, 9)
    attrs = {"k": 2, "axis": 1, "largest": True, "sorted": True}
    assert codes(target, Op("topk", (x,), (out, value("i", 1, 2, dtype="int32")), attrs)) == ("native", [])
    assert codes(target, Op("topk", (x,), (out, value("i", 1, 2)), attrs))[1] == ["PT103"]


def test_constants_have_no_rank_limit(make: Callable[..., Target]) -> None:
    target = make("[ops.add]\n", head=HEAD + "min_rank = 2\n")
    assert codes(target, Op("add", (value("x", 1, 3), value("c", const=True)), (value("y", 1, 3),))) == ("native", [])
    assert codes(target, unary("add", 3)) == ("unsupported", ["PT203", "PT203"])


def test_identity_is_native_everywhere(make: Callable[..., Target]) -> None:
    assert codes(make(""), unary("identity", 1, 2, 3, 4, 5, 6, 7, dtype="int64")) == ("native", [])


def test_variadic_operands_must_all_fit(make: Callable[..., Target]) -> None:
    target = make("[ops.cat]\ndtypes = ['float32']\nconst_inputs = ['xs']\n")
    inputs = value("a", 1, 2, const=True), value("b", 1, 2), value("c", 1, 2, dtype="int32")
    assert codes(target, Op("cat", inputs, (value("y", 1, 6),), {"axis": 1}))[1] == ["PT103", "PT105", "PT105"]


# -- speed -----------------------------------------------------------------------------------------------------------


def test_loading_needs_no_framework() -> None:
    code = (
        "import sys, porter.ops\nfrom porter.target import Target; Target.load('mlu270')\n"
        "print({'torch', 'onnx', 'onnxruntime', 'pydantic'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_reasons_do_not_name_values(make: Callable[..., Target]) -> None:
    # The planner shares a judgement between ops that look alike.
    target = make("min_rank = 2\n[ops.cat]\ndtypes = ['float16']\nconst_inputs = ['xs']\n")
    inputs = value("VALUE", 1), Value("VALUE", None, None)
    reasons = target.judge(Op("cat", inputs, (value("VALUE", 1),), {"axis": 0})).reasons
    assert {reason.code for reason in reasons} == {"PT103", "PT105", "PT202", "PT203", "PT204"}
    assert not any("VALUE" in reason.text for reason in reasons)
    assert any(reason.text.startswith("xs[1] of cat is computed") for reason in reasons)


# -- the host, and the model as a whole ------------------------------------------------------------------------------

HOST = """\
fallback = "host"
[ops.conv2d]
limits = [{ expr = "kernel_h <= 7", why = "seven" }]
host_limits = [{ expr = "pad_top == pad_bottom", why = "even" }]
host_dtypes = ["float32"]
[ops.relu]
fallback = "none"
limits = [{ expr = "rank == 4", why = "four" }]
[ops.exp]
device = "host"
host_limits = [{ expr = "rank <= 2", why = "two" }]
[ops.softmax]
device = "host"
opt_in = "say so"
limits = [{ expr = "axis == 1", why = "one" }]
"""


def conv2d(kernel: int, pad: tuple[int, int] = (1, 1), dtype: str = "float32") -> Op:
    inputs = (value("x", 1, 4, 20, 20, dtype=dtype), value("w", 4, 4, kernel, kernel, dtype=dtype, const=True))
    attrs = {"stride": (1, 1), "padding": (pad, pad), "dilation": (1, 1), "groups": 1}
    return Op("conv2d", inputs, (value("y", 1, 4, 20, 20, dtype=dtype),), attrs)


@pytest.mark.parametrize(
    ("op", "verdict", "found"),
    [
        (conv2d(7, (0, 1)), "native", []),
        (conv2d(8), "host", ["PT201"]),
        (conv2d(8, (0, 1)), "unsupported", ["PT201", "PT201"]),
        (conv2d(7, dtype="float16"), "unsupported", ["PT103", "PT103", "PT103", "PT103", "PT103"]),
        (unary("relu", 1, 2, 3, 4), "native", []),
        (unary("relu", 1, 2), "unsupported", ["PT201"]),
        (unary("exp", 1, 2), "host", ["PT104"]),
        (unary("exp", 1, 2, 3), "unsupported", ["PT104", "PT201"]),
        (unary("softmax", 1, 2, axis=1), "host", ["PT106"]),
        (unary("softmax", 1, 2, axis=0), "host", ["PT104", "PT201"]),
    ],
)
def test_what_the_accelerator_does_not_take(
    make: Callable[..., Target], op: Op, verdict: str, found: list[str]
) -> None:
    assert codes(make(HOST), op) == (verdict, found)


def test_the_reasons_say_where(make: Callable[..., Target]) -> None:
    texts = [reason.text for reason in make(HOST).judge(conv2d(8, (0, 1))).reasons]
    assert texts == [
        "kernel_h 8 <= 7 does not hold: seven",
        "pad_top 0 == pad_bottom 1 does not hold on the host: even",
    ]


def test_limits_of_the_model(make: Callable[..., Target]) -> None:
    target = make("opset = [10, 11]\n[model]\nmax_inputs = 1\nmax_outputs = 2\ninput_ranks = [4]\nmax_batch = 1\n")

    def judged(inputs: list[Value], outputs: int, opset: int | None) -> list[str]:
        results = [value(f"y{i}", 1) for i in range(outputs)]
        return [f"{reason.code} {reason.text}" for reason in target.judge_model(inputs, results, opset)]

    image = value("x", 1, 3, 4, 4)
    assert judged([image], 2, 10) == judged([image], 2, 11) == judged([image], 2, None) == []
    assert judged([image], 2, 9) == ["PT205 the model has ONNX opset 9; the target takes 10 to 11"]
    assert judged([image], 3, 11) == ["PT206 the model has 3 outputs; the target takes at most 2"]
    assert judged([image, image], 1, 11) == ["PT206 the model has 2 inputs; the target takes at most 1"]
    assert judged([value("x", 2, 3, 4, 4)], 1, 11) == ["PT207 the input x has batch 2; the target takes at most 1"]
    assert judged([value("x", 1, 3, 4)], 1, 11) == ["PT207 the input x has rank 3; the target takes rank 4"]
    assert judged([Value("x", None, "float32")], 1, 11) == []
