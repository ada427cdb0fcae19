# SPDX-License-Identifier: Apache-2.0
"""The node tests that ship in the onnx package: each is loaded, checked and rewritten for a target, and the test's own
reference outputs are to come out of the rewritten model, in onnxruntime or else in onnx's ReferenceEvaluator.

What a test becomes:

* "reproduced": the rewritten model (the model as it is, where the target takes it) gives the reference outputs within
  the test's own tolerances (in bfloat16 within two rounding steps);
* "not run": neither runtime gives them for the *original* model: there is nothing to compare;
* "refused": porter says in one line why it does not take the model;
* "wrong": the rewritten model gives something else, and the original does not;
* "crash": anything that is not porter's own error.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from porter.api import rewrite
from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError, explain
from porter.loading import load
from porter.target import Target

__all__ = ["TARGETS", "Case", "Result", "page", "run"]

TARGETS = ("mlu270", "x5", "rk3588")
OUTCOMES = ("reproduced", "not run", "refused", "wrong", "crash")
#: How many operators a row names.
_OPERATORS = 8
VERDICTS = ("as is", "rewritten", "left")
#: The tests' tolerance of 0.001 is finer than bfloat16 itself: two of its rounding steps are allowed, since another
#: opset rounds between other operations.
BFLOAT16 = 2 * 2.0**-8
#: What a seed decides has no reference to reproduce.
RANDOM = frozenset(
    {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}
)


@dataclass(frozen=True, slots=True)
class Case:
    """What became of one test on one target: ``verdict`` of the op on the target, with the first ``reason`` where it
    stays illegal and its ``code`` ("" where the model was not taken); ``rewrites`` applied; ``outcome`` and its
    ``cause``."""

    name: str
    operator: str
    outcome: str
    verdict: str = ""
    code: str = ""
    reason: str = ""
    rewrites: int = 0
    cause: str = ""


@dataclass(slots=True)
class Result:
    cases: list[Case] = field(default_factory=list)

    def of(self, outcome: str) -> list[Case]:
        return [case for case in self.cases if case.outcome == outcome]

    def to_json(self) -> dict[str, Any]:
        named = [case for case in self.cases if case.outcome != "reproduced"]
        return {
            "tests": len(self.cases),
            "outcomes": Counter(case.outcome for case in self.cases),
            "verdicts": Counter(case.verdict for case in self.cases if case.verdict),
            "not_reproduced": {case.name: [case.outcome, case.cause] for case in named},
            "left": {case.name: case.reason for case in self.cases if case.verdict == "left"},
        }


@functools.cache
def collected() -> tuple[Any, ...]:
    """Every node test, in the package's order; the tests of functions include those of their expanded bodies."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(case for case in collect_testcases(None) if case.model is not None)


def run(target: str, *, stride: int = 1, offset: int = 0, say: Callable[[str], None] | None = None) -> Result:
    """Every ``stride``-th test, beginning with number ``offset``, for one target."""
    chosen, result = Target.load(target), Result()
    for number, case in enumerate(collected()[offset::stride]):
        if say is not None and number % 50 == 0:
            say(f"node tests on {target}: {number * stride} of {len(collected())}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with np.errstate(all="ignore"):
                result.cases.append(_case(case, chosen))
    return result


def _case(case: Any, target: Target) -> Case:
    operator = case.model.graph.node[-1].op_type if case.model.graph.node else "none"
    verdict = code = reason = ""
    rewrites = 0
    try:
        graph = load(case.model)
        made = rewrite(graph, target, verify=False)
        verdict = "as is" if made.before.ok else "rewritten" if made.report.ok else "left"
        if verdict == "left":
            code, reason = _reason(made.report.findings)
        rewrites = len(made.ledger.entries)
        assert isinstance(made.graph, OnnxGraph)
        outcome, cause = _compared(case, made.graph.to_proto())
    except PorterError as error:
        outcome, cause = "refused", f"{error.code}: {error.message}"
    except Exception as error:
        outcome, cause = "crash", f"{type(error).__name__}: {error}"[:300]
    return Case(case.name, operator, outcome, verdict, code, reason, rewrites, cause)


def _reason(findings: Sequence[Any]) -> tuple[str, str]:
    first = next(finding for finding in findings if finding.severity != "note")
    return first.code, f"{first.kind or 'the model'}: {first.message.partition(']; ')[0].partition(' [')[0]}"


def _compared(case: Any, made: onnx.ModelProto) -> tuple[str, str]:
    if any(node.op_type in RANDOM for node in case.model.graph.node):
        return "not run", "the outputs are random"
    why = list(_attempts(made, case))
    if not why[-1]:
        return "reproduced", ""
    original = list(_attempts(case.model, case))
    if not original[-1]:
        return "wrong", "; ".join(why)
    return "not run", "; ".join(original)


def _attempts(model: onnx.ModelProto, case: Any) -> Iterator[str]:
    """Why each runtime does not reproduce the reference, until one does ("")."""
    for runtime in (_onnxruntime, _reference):
        try:
            made = runtime(model)
            bad = [
                why
                for inputs, wanted in case.data_sets
                for why in _differences(made([_array(one) for one in inputs]), [_array(one) for one in wanted], case)
            ]
        except Exception as error:  # no kernel, an unsupported type: whatever a runtime raises
            bad = [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]]
        yield f"{runtime.__name__[1:]}: {bad[0]}" if bad else ""
        if not bad:
            return


def _array(value: Any) -> Any:
    """A value of a data set: arrays, scalars, tensors as protobufs, sequences of them, or None."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return [_array(one) for one in value]
    return value if value is None else np.asarray(value)


Run = Callable[[Sequence[Any]], Sequence[Any]]


def _onnxruntime(model: onnx.ModelProto) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    known = {value.name for value in session.get_inputs()}
    names = [value.name for value in model.graph.input]
    return lambda inputs: session.run(None, {n: a for n, a in zip(names, inputs, strict=False) if n in known})


def _reference(model: onnx.ModelProto) -> Run:
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(model)
    names = [value.name for value in model.graph.input]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=False)))


def _differences(got: Sequence[Any], wanted: Sequence[Any], case: Any) -> Iterator[str]:
    if len(got) != len(wanted):
        yield f"{len(got)} outputs, not {len(wanted)}"
        return
    for a, b in zip(got, wanted, strict=True):
        if isinstance(b, (list, tuple)):
            yield from _differences(a, b, case)
            continue
        if b is None or a is None:
            if a is not b:
                yield "one of two is empty"
            continue
        a, b = np.asarray(a), np.asarray(b)
        if b.dtype.kind in "OU":
            a, b = a.astype(object), b.astype(object)
        if a.shape != b.shape:
            yield f"shape {a.shape}, not {b.shape}"
        elif a.dtype != b.dtype and a.dtype.kind != b.dtype.kind:
            yield f"{a.dtype}, not {b.dtype}"
        elif b.dtype.kind in "fc" or b.dtype.kind == "V":
            rtol = max(case.rtol, BFLOAT16) if b.dtype.name == "bfloat16" else case.rtol
            same = np.isclose(_wide(a), _wide(b), rtol, case.atol, equal_nan=True)
            if not same.all():
                yield f"{np.size(same) - np.count_nonzero(same)} of {np.size(same)} elements differ"
        elif not np.array_equal(a, b):
            yield f"{int(np.count_nonzero(a != b))} of {b.size} elements differ"


def _wide(array: Any) -> Any:
    return array if array.dtype.kind in "fc" else array.astype(np.float32)


def page(results: Mapping[str, Result]) -> str:
    """The tables: outcomes by target, and reasons with their counts."""
    lines = [
        "## Node tests of ONNX", "",
        f"| target | tests | {' | '.join(OUTCOMES)} | legal {' | '.join(VERDICTS[:2])} | not legal |",
        "|---" * (len(OUTCOMES) + 5) + "|",
    ]  # fmt: skip
    for target, result in results.items():
        outcomes = Counter(case.outcome for case in result.cases)
        verdicts = Counter(case.verdict for case in result.cases)
        cells = [outcomes[outcome] for outcome in OUTCOMES] + [verdicts[verdict] for verdict in VERDICTS]
        lines.append(f"| {target} | {len(result.cases)} | {' | '.join(map(str, cells))} |")
    for target, result in results.items():
        bad = [*result.of("wrong"), *result.of("crash")]
        lines += ["", *(f"- {target}, {case.outcome}: {case.name}: {case.cause}" for case in bad)] if bad else []
    for outcome, title in (("refused", "porter does not take"), ("not run", "no runtime here reproduces")):
        chosen = {target: result.of(outcome) for target, result in results.items()}
        lines += ["", f"What {title}, with the number of tests:", "", *_table("why", chosen, lambda case: case.cause)]
    left = {target: [case for case in result.cases if case.verdict == "left"] for target, result in results.items()}
    lines += ["", "Why tests stay not legal, by the first reason (`porter explain CODE`):", ""]
    return "\n".join([*lines, *_table("reason", left, lambda case: f"{case.code} {title_of(case.code)}")])


def title_of(code: str) -> str:
    """The first line of a code's page."""
    return explain(code).partition("\n")[0].removeprefix(f"# {code} ")


def _table(head: str, cases: Mapping[str, Sequence[Case]], of: Callable[[Case], str]) -> list[str]:
    """Rows: what ``of`` says of cases, with the operators and the number of tests for each target."""
    rows: dict[str, dict[str, list[Case]]] = {}
    for target, found in cases.items():
        for case in found:
            rows.setdefault(of(case).replace("|", "/"), {}).setdefault(target, []).append(case)
    lines = [f"| {head} | operators | {' | '.join(cases)} |", f"|---|---|{'---|' * len(cases)}"]
    for why, by_target in sorted(rows.items(), key=lambda item: -max(map(len, item[1].values()))):
        operators = Counter(case.operator for found in by_target.values() for case in found)
        named = sorted(operators, key=lambda name: (-operators[name], name))[:_OPERATORS]
        more = f" and {len(operators) - len(named)} more" if len(operators) > len(named) else ""
        counts = " | ".join(str(len(by_target.get(target, []))) for target in cases)
        lines.append(f"| {why} | {', '.join(named)}{more} | {counts} |")
    return lines
