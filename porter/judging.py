# SPDX-License-Identifier: Apache-2.0
"""Judging an op, or a model as a whole, by what a target says: every reason, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from porter.op_facts import fact_names
from porter.ops import KINDS, Op, Value
from porter.target import About, Certainty, Judgement, Limit, OpSupport, Reason, Target, Verdict

__all__ = ["judge", "judge_model"]

_ORDER: tuple[Verdict, ...] = ("native", "unknown", "host", "unsupported")


def judge(target: Target, op: Op) -> Judgement:
    """See :meth:`porter.target.Target.judge`."""
    if op.kind == "identity":
        return Judgement("native")
    found = _Found()
    support = target.ops.get(op.kind)
    if support is None:
        found.add("unsupported", _absent(target, op.kind))
    elif support.device == "none":
        text = _with_note(f"there is no {op.kind}", support)
        found.add("unsupported", Reason("PT101", text, *_cited(support)))
    found.add("unsupported", *_static(target, op))
    if support is not None and support.device != "none":
        _place(target, support, op, found)
    return Judgement(found.verdict, tuple(found.reasons), support)


def judge_model(target: Target, inputs: Sequence[Value], outputs: Sequence[Value], opset: int | None) -> list[Reason]:
    """See :meth:`porter.target.Target.judge_model`."""
    return [
        *_opset(target, opset),
        *_too_many(target, "input", len(inputs), "max_inputs"),
        *_too_many(target, "output", len(outputs), "max_outputs"),
        *(reason for value in inputs for reason in _input_shape(target, value)),
    ]


class _Found:
    """The reasons found so far, each once, and the worst verdict among them."""

    def __init__(self) -> None:
        self.reasons: dict[Reason, None] = {}
        self.verdict: Verdict = "native"

    def add(self, verdict: Verdict, *reasons: Reason) -> None:
        """Add ``reasons`` that lead to ``verdict``, where they are known to hold."""
        for reason in reasons:
            self.reasons.setdefault(reason)
            unknown = reason.code in ("PT102", "PT202") or reason.certainty == "unknown"
            self.verdict = max(self.verdict, "unknown" if unknown else verdict, key=_ORDER.index)


def _place(target: Target, support: OpSupport, op: Op, found: _Found) -> None:
    """Find where ``op`` runs: on the accelerator, else on the host, else nowhere."""
    host = support.device == "host"
    possible = not host or bool(support.opt_in)
    against = list(_against(target, support, op)) if possible else []
    if host and op.kind not in target.runtime.opted_in:
        if support.opt_in and not against:
            text = f"{op.kind} runs on the host by default; to put it on the accelerator: {support.opt_in}"
            found.add("host", Reason("PT106", _with_note(text, support), *_cited(support)))
        else:
            text = _with_note(f"{op.kind} runs on the host", support)
            found.add("host", Reason("PT104", text, *_cited(support)))
    fallback = "host" if host else support.fallback or target.runtime.fallback
    found.add("host" if fallback == "host" else "unsupported", *against)
    if found.verdict == "host":
        found.add("unsupported", *_host_dtypes(support, op), *_limits(support.host_limits, op, " on the host"))


def _against(target: Target, support: OpSupport, op: Op) -> Iterator[Reason]:
    """Why ``op`` does not run on the accelerator."""
    if support.certainty == "unknown":
        text = _with_note(f"it is not known whether {op.kind} runs", support)
        yield Reason("PT102", text, *_cited(support))
    yield from _dtypes(target, support, op)
    yield from _constants(support, op)
    yield from _ranks(target, op)
    yield from _limits(support.limits, op)


def _host_dtypes(support: OpSupport, op: Op) -> Iterator[Reason]:
    for place in _operands(op) if support.host_dtypes else ():
        dtype = place.value.dtype
        if dtype is not None and dtype not in support.host_dtypes:
            text = f"{place.role} of {op.kind} is {dtype}; on the host it can be {' or '.join(support.host_dtypes)}"
            yield Reason("PT103", text, *_cited(support))


def _cited(said: OpSupport | About | Limit) -> tuple[Certainty, str]:
    return said.certainty, said.source


def _with_note(text: str, support: OpSupport) -> str:
    return f"{text}: {support.note}" if support.note else text


def _absent(target: Target, kind: str) -> Reason:
    base = kind.removeprefix("dynamic_")
    if base != kind and target.runtime.static_shapes and base in KINDS:
        text = f"{base} takes at run time what the target must know beforehand"
        return Reason("PT105", text, *_cited(target.runtime.fact("static_shapes")))
    if target.closed:
        return Reason("PT101", f"there is no {kind}; the list of ops is complete", target.certainty, target.source)
    return Reason("PT102", f"the target's file does not name {kind}", "unknown", "")


# A reason names an operand by its place in the op and never by the value's name: judgements of ops that look alike are
# shared between them.


class _Place(NamedTuple):
    """One operand or result of an op: ``name`` in the vocabulary ("" for a result), and how a reason calls it."""

    name: str
    role: str
    value: Value


def _operands(op: Op) -> Iterator[_Place]:
    spec = KINDS.get(op.kind.removeprefix("dynamic_"))
    names = (spec.inputs.split() if spec else None) or ["operands*"]
    for i, value in enumerate(op.inputs):
        if value is not None:
            last = names[min(i, len(names) - 1)]
            name = last.rstrip("?*")
            yield _Place(name, f"{name}[{i - len(names) + 1}]" if last.endswith("*") else name, value)


def _results(op: Op) -> Iterator[_Place]:
    for i, value in enumerate(op.outputs):
        yield _Place("", "the result" if len(op.outputs) == 1 else f"result {i}", value)


def _static(target: Target, op: Op) -> Iterator[Reason]:
    if target.runtime.static_shapes:
        for place in (*_operands(op), *_results(op)):
            if place.value.shape is None:
                said = target.runtime.fact("static_shapes")
                yield Reason("PT204", f"the shape of {place.role} is not static", *_cited(said))


def _dtypes(target: Target, support: OpSupport, op: Op) -> Iterator[Reason]:
    said = target.runtime.fact("dtypes")
    every = support.dtypes or target.runtime.dtypes
    checks = [(place, support.operand_dtypes.get(place.name, every)) for place in _operands(op)]
    for i, place in enumerate(_results(op)):
        listed = support.output_dtypes
        checks.append((place, listed[min(i, len(listed) - 1)] if listed else every))
    for place, allowed in checks:
        dtype = place.value.dtype
        if dtype is None:
            yield Reason("PT202", f"the dtype of {place.role} is not known", "unknown", "")
        elif dtype not in allowed:
            text = f"{place.role} of {op.kind} is {dtype}; it can be {' or '.join(allowed)}"
            if dtype not in target.runtime.dtypes:
                yield Reason("PT103", f"{text}. The device has no {dtype} tensors", *_cited(said))
            else:
                yield Reason("PT103", text, *_cited(support))


def _constants(support: OpSupport, op: Op) -> Iterator[Reason]:
    for place in _operands(op):
        if place.name in support.const_inputs and not place.value.is_const:
            text = f"{place.role} of {op.kind} is computed when the model runs; it must be a constant"
            yield Reason("PT105", text, *_cited(support))


def _ranks(target: Target, op: Op) -> Iterator[Reason]:
    runtime = target.runtime
    for place in (*_operands(op), *_results(op)):
        rank = place.value.rank
        if rank is None or place.value.is_const:
            continue
        for broken, key, word in (
            (runtime.max_rank is not None and rank > runtime.max_rank, "max_rank", "highest"),
            (rank < runtime.min_rank, "min_rank", "lowest"),
        ):
            if broken:
                said = runtime.fact(key)
                note = f": {said.note}" if said.note else ""
                text = f"{place.role} has rank {rank}; the {word} is {getattr(runtime, key)}{note}"
                yield Reason("PT203", text, *_cited(said))


def _limits(limits: Sequence[Limit], op: Op, where: str = "") -> Iterator[Reason]:
    names = fact_names(op.kind)

    def fact(name: str) -> Any:
        return names[name](op)

    for limit in limits:
        applies = True if limit.when is None else limit.when.holds(fact)[0]
        if applies is False:
            continue
        holds, problem = limit.expr.holds(fact)
        if holds is False and applies:
            text = f"{limit.expr.filled(fact)} does not hold{where}: {limit.why}"
            yield Reason("PT201", text, *_cited(limit))
        elif not holds:
            if limit.when is not None and applies is None:
                problem = f"whether {limit.when.text} holds is not known"
            text = f"cannot tell whether {limit.expr.text} holds{where}, since {problem}: {limit.why}"
            yield Reason("PT202", text, "unknown", limit.source)


# -- judging the model as a whole ----------------------------------------------------------------------------------


def _noted(said: About) -> str:
    return f": {said.note}" if said.note else ""


def _opset(target: Target, opset: int | None) -> Iterator[Reason]:
    allowed = target.runtime.opset
    if opset is not None and allowed and not allowed[0] <= opset <= allowed[-1]:
        said = target.runtime.fact("opset")
        span = str(allowed[0]) if allowed[0] == allowed[-1] else f"{allowed[0]} to {allowed[-1]}"
        text = f"the model has ONNX opset {opset}; the target takes {span}{_noted(said)}"
        yield Reason("PT205", text, *_cited(said))


def _too_many(target: Target, what: str, count: int, key: str) -> Iterator[Reason]:
    most = getattr(target.model, key)
    if most is not None and count > most:
        said = target.model.fact(key)
        text = f"the model has {count} {what}s; the target takes at most {most}{_noted(said)}"
        yield Reason("PT206", text, *_cited(said))


def _input_shape(target: Target, value: Value) -> Iterator[Reason]:
    limits, shape = target.model, value.shape
    if shape is None:
        return
    if limits.input_ranks and len(shape) not in limits.input_ranks:
        said = limits.fact("input_ranks")
        ranks = " or ".join(map(str, limits.input_ranks))
        text = f"the input {value.name} has rank {len(shape)}; the target takes rank {ranks}{_noted(said)}"
        yield Reason("PT207", text, *_cited(said))
    if limits.max_batch is not None and shape and shape[0] > limits.max_batch:
        said = limits.fact("max_batch")
        text = f"the input {value.name} has batch {shape[0]}; the target takes at most {limits.max_batch}{_noted(said)}"
        yield Reason("PT207", text, *_cited(said))
