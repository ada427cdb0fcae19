# SPDX-License-Identifier: Apache-2.0
"""Random models: a small share of ``make random-models``, and that it finds, shrinks and repeats what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.random_models import devices, files, minimize
from benchmarks.random_models.__main__ import main
from benchmarks.random_models.case import Outcome, judge
from benchmarks.random_models.compare import Region, within_bound
from benchmarks.random_models.generate import generate
from benchmarks.random_models.program import Const, Program, Step, Var, samples, to_onnx
from benchmarks.random_models.runner import cases_of, run_one
from benchmarks.random_models.tables import Tally
from porter import registry
from porter.rewrite import rewrite

ROOT = Path(__file__).resolve().parents[2]
X = Var("x", (2, 3), "float32")


def chain(*ops: str) -> Program:
    """Operators of one operand in a row."""
    names = ["x", *(f"v{i}" for i in range(len(ops)))]
    steps = tuple(Step(op, (names[i],), (Var(names[i + 1], (2, 3), "float32"),)) for i, op in enumerate(ops))
    return Program("onnx", 17, (X,), {}, steps, (names[-1],))


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_models_stay_what_they_are(first: int) -> None:
    """None crashes and none becomes another function, for a target of targets/ and for a restricted one."""
    failed = []
    for number in range(first, first + 10):
        case = cases_of(2026, number)
        _, outcome = run_one(case)
        second = cases_of(2026, number, outcome.kinds)
        failed += [(case, outcome)] if outcome.failed else []
        if outcome.kinds:
            _, outcome = run_one(second)
            failed += [(second, outcome)] if outcome.failed else []
    assert failed == []


@pytest.mark.parametrize("dialect", ["onnx", "torch"])
def test_a_model_is_the_same_in_every_process(dialect: str) -> None:
    """Whatever the order of hashes."""
    code = (
        "import hashlib; from benchmarks.random_models.generate import generate\n"
        f"print(hashlib.sha256(repr([generate(7, n, {dialect!r}) for n in range(6)]).encode()).hexdigest())"
    )
    seen = set()
    for salt in ("0", "1"):
        made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
                              env={"PYTHONHASHSEED": salt, "OMP_NUM_THREADS": "1"})  # fmt: skip
        seen.add(made.stdout)
    assert len(seen) == 1
    assert generate(7, 0, "onnx") != generate(7, 1, "onnx") != generate(8, 1, "onnx")


def test_inputs_are_within_their_scale() -> None:
    program = Program("onnx", 17, (X, Var("i", (50,), "int64", 4.0)), {}, (), ())
    x, i = samples(program, 1, 3)[0]
    assert x.dtype == np.float32 and np.abs(x).max() <= 2.0
    assert i.dtype == np.int64 and i.min() == -4 and i.max() == 4


# -- finding what is wrong ---------------------------------------------------------------------------


def _use(monkeypatch: pytest.MonkeyPatch, rule: object) -> None:
    """Let ``rule`` stand in the place of porter's own rules for its kinds."""
    own, known = registry.rules_for, registry.rules
    monkeypatch.setattr("porter.planner.rules_for", lambda kind: (rule,) if kind in rule.removes else own(kind))
    everything = {**known(), rule.name: rule}
    monkeypatch.setattr("benchmarks.random_models.compare.rules", lambda: everything)


@rewrite(removes="hardsigmoid", yields=("mul", "add", "clamp"), claim="exact")
def a_little_wrong(b, op):
    """hardsigmoid by its formula, with a slope that is off in the seventh digit."""
    return b.clamp(b.add(b.mul(op.inputs[0], 0.2000001), 0.5), min=0.0, max=1.0)


@rewrite(removes="hardsigmoid", yields=("relu",), claim="bounded", error="1e-06 absolute")
def quite_wrong(b, op):
    """hardsigmoid is no relu."""
    return b.relu(op.inputs[0])


@rewrite(removes="hardsigmoid", yields=("relu",), claim="exact")
def crashing(b, op):
    """A rule with a bug."""
    return b.relu(op.inputs[1])


@pytest.mark.parametrize(
    ("rule", "status", "detail"),
    [
        (a_little_wrong, "mismatch", "not bit-equal by a_little_wrong"),
        (quite_wrong, "mismatch", "quite_wrong promises 1e-06 absolute"),
        (crashing, "crash", "IndexError at "),
    ],
)
def test_wrong_rules_are_found(monkeypatch, rule, status, detail) -> None:
    _use(monkeypatch, rule)
    outcome = judge(chain("Tanh", "HardSigmoid", "Relu"), "without:hardsigmoid;", "rewrite", 1)
    assert (outcome.status, outcome.detail[: len(detail)]) == (status, detail)


def test_a_rounding_that_grows_is_told_apart(monkeypatch) -> None:
    """The difference of two almost equal values, made large: an output differs, and every part is within its bound."""

    @rewrite(removes="hardsigmoid", yields=("mul", "add", "clamp"), claim="bounded", error="1e-06 absolute")
    def rounded(b, op):
        """hardsigmoid by its formula, with a slope that is off in the seventh digit."""
        return b.clamp(b.add(b.mul(op.inputs[0], 0.2000001), 0.5), min=0.0, max=1.0)

    _use(monkeypatch, rounded)
    numbers = {"slope": 0.2, "half": 0.5, "much": 1e7}
    constants = {name: Const((), "float32", values=(value,)) for name, value in numbers.items()}
    nodes = [("HardSigmoid", "x", "", "a"), ("Mul", "x", "slope", "b"), ("Add", "b", "half", "c"),
             ("Sub", "a", "c", "d"), ("Mul", "d", "much", "y")]  # fmt: skip
    steps = [Step(op, tuple(filter(None, ins)), (Var(out, (2, 3), "float32"),)) for op, *ins, out in nodes]
    program = Program("onnx", 17, (X,), constants, tuple(steps), ("y",))
    outcome = judge(program, "without:hardsigmoid;", "rewrite", 1)
    assert outcome.status == "amplified" and "y differs" in outcome.detail


def test_bounds_are_those_that_rules_state() -> None:
    region = Region("y", "sqrt", (), ("sqrt_to_pow",), ())  # 4 ulp
    want = np.float32([1.0, 1.5])
    step = np.float32(2.0**-23)
    assert within_bound(region, want, want + 4 * step, []) == ""
    assert "sqrt_to_pow promises 4 ulp" in within_bound(region, want, want + 5 * step, [])
    exact = replace(region, rules=("reshape_to_flatten",))
    assert "not bit-equal" in within_bound(exact, want, want + step, [])
    assert "became" in within_bound(exact, want, want.astype(np.float64), [])


# -- small and again -----------------------------------------------------------------------------------


def test_minimizing_keeps_what_fails() -> None:
    """Of eight operators, two outputs and a target that lacks four kinds the one that matters is left."""

    def ask(program: Program, target: str, how: str, feed: int) -> Outcome:
        to_onnx(program)  # it is a model
        fails = any(step.op == "Erf" for step in program.steps) and "erf" in target
        return Outcome("mismatch", f"v{len(program.steps)} differs by 0.{feed}") if fails else Outcome("same")

    program = chain("Relu", "Tanh", "Neg", "Erf", "Abs", "Relu", "Exp", "Relu")
    program = replace(program, outputs=("v7", "v2"))
    small, target, how = minimize.minimize(program, "without:silu,erf,relu,cat;rank4,dense", "fold", 5, ask)
    assert [step.op for step in small.steps] == ["Erf"]
    assert (target, how) == ("without:erf;", "rewrite")
    assert small.inputs[0].shape == (1, 1)


@pytest.mark.parametrize("dialect", ["onnx", "torch"])
def test_a_written_case_is_the_case(tmp_path: Path, dialect: str, capsys, monkeypatch) -> None:
    program = generate(3, 4, dialect)
    model = files.write(tmp_path / "one.json", program, "mlu270", "rewrite", 9, "why")
    assert model.exists() and files.read(tmp_path / "one.json") == (program, "mlu270", "rewrite", 9)
    monkeypatch.setattr(sys, "argv", ["random_models", "--case", str(tmp_path / "one.json")])
    assert main() == 0
    assert capsys.readouterr().out.startswith("same: ")


def test_exit_code_and_what_is_printed(monkeypatch, capsys, tmp_path: Path) -> None:
    """A failure gives 1, and is written with the command that runs it again."""
    case = cases_of(0, 1)
    failing = Outcome("mismatch", "v3 differs", "legal after rewrite", ("silu_to_sigmoid_mul",), ("silu",), ("Relu",))
    monkeypatch.setattr("benchmarks.random_models.__main__.run", lambda *_: iter([(case, failing)]))
    monkeypatch.setattr(sys, "argv", ["random_models", "--models", "1", "--keep-size", "--out", str(tmp_path)])
    assert main() == 1
    printed = capsys.readouterr().out
    assert "| mismatch | 1 |" in printed and "v3 differs" in printed and "1 of " in printed


def test_tally_counts_models_once_and_rules_by_case() -> None:
    tally = Tally()
    case = cases_of(0, 1)
    tally.add(case, Outcome("same", "", "left", ("silu_to_sigmoid_mul",), ("silu",), compared=2))
    tally.add(replace(case, target="without:silu;"), Outcome("same", "", "left", ("silu_to_sigmoid_mul",), ("silu",)))
    assert len(tally.models) == 1 and tally.fired == {"silu_to_sigmoid_mul": 2} and tally.compared == 2
    assert "silu_to_sigmoid_mul" not in tally.silent and "relu_to_clamp" in tally.silent
    assert "| restricted targets | 1 |" in tally.markdown()


def test_restricted_targets_say_what_they_lack() -> None:
    toy = devices.restricted("without:silu,cat;rank4,dense")
    assert "silu" not in toy.ops and "relu" in toy.ops and toy.runtime.max_rank == 4
    with pytest.raises(KeyError):
        devices.restricted("without:silu;no_such_limit")
    everything = devices.restricted("without:;" + ",".join(devices.LIMITS))
    assert json.dumps(sorted(everything.ops)) and all(everything.ops[k].limits for k in ("conv2d", "softmax", "lstm"))
