# SPDX-License-Identifier: Apache-2.0
"""What is an integer: which ops are quantized, at which width, and which tensors share one encoding.

Flow "operands": the input and the weight of each quantized op are integers, its result a float. Flow "tensors": every
tensor between quantized ops is an integer. There an op is

* *active* when the target computes its kind in integers: it reads integers, and its result is requantized;
* *passive* when it only moves values (layout ops, cat, max pooling): operands and result share one encoding, and it is
  an integer op where its neighbours are;
* *fused* when it is computed inside the product before it: the value in between is not requantized;
* in float otherwise.

A result that no integer op reads stays as it is (float, or the accumulator's int32) where the target can deliver that.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import cast

from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Op, Value
from porter.quantize.encodings import layer_paths
from porter.quantize.numerics import BITS, Dtype
from porter.quantize.scheme import PRODUCTS, Scheme, Width

__all__ = ["FLOAT", "Group", "Plan", "Site", "pins", "plan"]

#: What a pin names to keep an op in float.
FLOAT = "float"


@dataclass(slots=True)
class Site:
    """One op that the target computes in integers, or would if it had not been pinned to float.

    Fields:
        path: of the layer (:func:`~porter.quantize.encodings.layer_paths`); the op's name where it has no weight.
        width: what it is quantized to, or would be.
        quantized: False where it stays in float.
        weighted: whether operand 1 is a constant weight.
        result: the last value computed inside the op: its output, or that of the last op fused behind it.
        pinned: the user names it with a width, so that it is computed in integers whatever is around it.
    """

    op: Op
    path: str
    width: Width
    quantized: bool
    weighted: bool
    result: Value
    pinned: bool = False

    @property
    def input(self) -> Value:
        return cast(Value, self.op.inputs[0])

    @property
    def weight(self) -> Value:
        return cast(Value, self.op.inputs[1])

    @property
    def output(self) -> Value:
        return self.op.outputs[0]


@dataclass(frozen=True, slots=True)
class Group:
    """Values with one encoding.

    ``values`` are all of them, ``sources`` those that must be observed (what the others hold is moved from there):
    model inputs, constants, and results of ops that are not passive. ``axis`` counts the channels where the device can
    have one scale for each of them: what reads the tensor as integers are depthwise convolutions.
    """

    name: str
    values: tuple[str, ...]
    sources: tuple[str, ...]
    dtype: Dtype
    axis: int | None = None


@dataclass(slots=True)
class Plan:
    """What :func:`plan` decided.

    Fields:
        sites: in topological order.
        fused: the values that are not requantized, inside a product and the ops fused behind it.
        integers: the names of the first outputs of all ops that are computed in integers, passive and fused ones too.
        values: every value of the graph by name.
    """

    scheme: Scheme
    width: str
    sites: list[Site]
    groups: list[Group]
    fused: frozenset[str] = frozenset()
    integers: frozenset[str] = frozenset()
    values: dict[str, Value] = field(default_factory=dict)

    @property
    def layers(self) -> dict[str, list[Site]]:
        """The sites with weights by path: one for each call."""
        found: dict[str, list[Site]] = {}
        for site in self.sites:
            if site.weighted:
                found.setdefault(site.path, []).append(site)
        return found

    @property
    def observed(self) -> dict[str, tuple[str, ...]]:
        """The values to observe by the name of their group, as :func:`~porter.quantize.calibrate.calibrate` takes."""
        return {group.name: group.sources for group in self.groups}

    @property
    def channels(self) -> dict[str, int]:
        """The axis of channels by the name of the group, where each channel can have a scale."""
        return {group.name: group.axis for group in self.groups if group.axis is not None}

    def group_of(self) -> dict[str, Group]:
        """The group of each value."""
        return {name: group for group in self.groups for name in group.values}


def pins(texts: Iterable[str]) -> dict[str, str]:
    """Pins from ``NAME=WIDTH`` texts, as ``--pin`` takes them.

    Raises:
        PorterError: PT420 for a text of another form.
    """
    found = {}
    for text in texts:
        pattern, equals, wanted = text.rpartition("=")
        if not (equals and pattern.strip() and wanted.strip()):
            raise PorterError("PT420", f"{text!r} is no pin", fix="Write --pin NAME=int16 or --pin 'head.*=float'.")
        found[pattern.strip()] = wanted.strip()
    return found


def plan(
    graph: Graph,
    scheme: Scheme,
    *,
    width: str,
    pins: Mapping[str, str] | None = None,
    findings: list[Finding] | None = None,
) -> Plan:
    """Decide what is quantized.

    Args:
        width: of everything that is not pinned.
        pins: for a layer path, op name, value name or pattern (``head.*``), the name of a width or ``"float"``. A pin
            without wildcards goes before one with them, and keeps an op in integers that would be left to float among
            floats; among equals the last counts.
        findings: gets what the user should know.

    Raises:
        PorterError: PT414 a pin that matches nothing; PT415 nothing to quantize; PT416 a width that the target does not
            have, or a layer that does not compute in float32; PT420 a pin that cannot be obeyed.
    """
    told: list[Finding] = [] if findings is None else findings
    chosen = scheme.width(width)
    sites = _sites(graph, scheme, chosen, told)
    fixed = _Pins(pins or {}, scheme, sites, told)
    if not sites:
        kinds = ", ".join(scheme.table.quantized_ops)
        fixed.refuse_unused(graph)
        raise PorterError("PT415", f"{graph.source} has no {kinds} with constant weights: nothing to quantize")
    fixed.apply()
    fixed.refuse_unused(graph)
    for site in sites:
        if site.weighted and (site.input.dtype != "float32" or site.weight.dtype != "float32"):
            raise PorterError(
                "PT416", f"{site.path} computes in {site.input.dtype}, not float32", where=str(site.op.origin),
                fix="Quantize the float32 model; the device may still run the rest in float16.",
            )  # fmt: skip
    if scheme.flow == "operands":
        computed = frozenset(site.output.name for site in sites if site.quantized)
        made = Plan(scheme, width, sites, _operand_groups(sites), integers=computed)
    else:
        from porter.quantize.flow import tensor_flow

        made = tensor_flow(graph, scheme, width, sites)
    made.values = {v.name: v for op in graph.ops() for v in (*op.operands, *op.outputs)}
    return made


def _sites(graph: Graph, scheme: Scheme, width: Width, findings: list[Finding]) -> list[Site]:
    """The ops of quantized kinds, in topological order."""
    paths = layer_paths(graph)
    sites: list[Site] = []
    narrowed: list[Site] = []
    for op in graph.ops():
        if op.kind not in scheme.table.quantized_ops:
            continue
        out = op.outputs[0]
        path = paths.get(out.name) if op.kind in PRODUCTS else None
        if path is None and (op.kind != "matmul" and op.kind in PRODUCTS):
            findings.append(
                Finding("PT419", "warning", f"the weight of {op.kind} {op.name} is computed at run time",
                        op.origin, "Fold it to a constant first (porter rewrite).", op.name, op.kind)
            )  # fmt: skip
            continue
        reads = [value for value in op.operands if (value.dtype or "").startswith("float")]
        if path is None and not _computes_floats(reads, out):
            continue
        if not reads or all(value.is_const for value in op.operands):
            continue
        own = width
        if not scheme.fits(op.kind, width):
            other = next((w for w in scheme.widths.values() if scheme.fits(op.kind, w)), None)
            own = other or width
        site = Site(op, path or op.name or out.name, own, scheme.table.quantizes(op), path is not None, out)
        if own is not width:
            narrowed.append(site)
        elif not scheme.fits(op.kind, width):
            site.quantized = False
            narrowed.append(site)
        sites.append(site)
    if narrowed:
        kinds = ", ".join(sorted({site.op.kind for site in narrowed}))
        first = narrowed[0]
        now = f"{first.width.name} instead" if first.quantized else "float"
        findings.append(
            Finding("PT421", "warning", f"{scheme.target} has no {width.activation} form of {kinds}: {len(narrowed)} "
                    f"ops ({first.path} is the first) are {now}", first.op.origin, "", first.op.name, first.op.kind)
        )  # fmt: skip
    return sites


def _computes_floats(reads: Sequence[Value], out: Value) -> bool:
    return bool(reads) and all(value.dtype == "float32" for value in reads) and out.dtype == "float32"


def _operand_groups(sites: Iterable[Site]) -> list[Group]:
    """One group for each value that a site reads, in the widest dtype that one of its readers wants."""
    dtypes: dict[str, Dtype] = {}
    for site in sites:
        name, wanted = site.input.name, site.width.activation
        if name not in dtypes or BITS[wanted] > BITS[dtypes[name]]:
            dtypes[name] = wanted
    return [Group(name, (name,), (name,), dtype) for name, dtype in dtypes.items()]


class _Pins:
    """The user's pins, matched with sites: each is obeyed or refused."""

    def __init__(self, pins: Mapping[str, str], scheme: Scheme, sites: Sequence[Site], findings: list[Finding]) -> None:
        for wanted in pins.values():
            if wanted != FLOAT:
                scheme.width(wanted)
        self._pins, self._scheme, self._sites, self._findings = pins, scheme, sites, findings
        self._used: set[str] = set()

    def apply(self) -> None:
        """Set the widths of the sites that are pinned."""
        for pattern, wanted in sorted(self._pins.items(), key=lambda pin: _exact(pin[0])):
            matched = [site for site in self._sites if _matches(pattern, _names(site))]
            obeyed = [site for site in matched if self._set(site, pattern, wanted)]
            if obeyed:
                self._used.add(pattern)
            elif matched:
                self._refuse(pattern, wanted, matched[0], self._why(matched[0], wanted))

    def _set(self, site: Site, pattern: str, wanted: str) -> bool:
        op = site.op
        if wanted == FLOAT:
            if site.quantized and self._scheme.flow == "operands":
                self._findings.append(
                    Finding("PT419", "warning", f"{site.path} was skipped; {self._scheme.target} runs {op.kind} only "
                            "quantized", op.origin, "Do not skip it.", op.name, op.kind)
                )  # fmt: skip
            site.quantized = False
            return True
        if self._why(site, wanted):
            if _exact(pattern):
                self._refuse(pattern, wanted, site, self._why(site, wanted))
            return False
        site.width = self._scheme.width(wanted)
        site.quantized = True
        site.pinned = _exact(pattern)
        return True

    def _why(self, site: Site, wanted: str) -> str:
        """Why a site cannot have a width; "" when it can."""
        if not self._scheme.table.quantizes(site.op):
            return f"{self._scheme.target} computes this {site.op.kind} in float"
        if wanted != FLOAT and not self._scheme.fits(site.op.kind, self._scheme.width(wanted)):
            forms = ", ".join(self._scheme.forms[site.op.kind])
            return f"{self._scheme.target} has {site.op.kind} only with {forms} activations"
        return ""

    def _refuse(self, pattern: str, wanted: str, site: Site, why: str) -> None:
        raise PorterError("PT420", f"the pin {pattern}={wanted} cannot be obeyed at {site.path}: {why}",
                          where=str(site.op.origin) if site.op.origin.known else None,
                          fix="Take the pin away, or name another layer.")  # fmt: skip

    def refuse_unused(self, graph: Graph) -> None:
        """Raise for a pin that nothing obeyed: PT420 where it names an op that has no integers, PT414 otherwise."""
        for pattern in sorted(set(self._pins) - self._used):
            wanted = self._pins[pattern]
            for op in graph.ops():
                if _matches(pattern, (op.name, op.outputs[0].name)):
                    role = "takes its scale from the ops around it" if op.kind in self._scheme.table.passive_ops else ""
                    why = role or f"{self._scheme.target} computes {op.kind} in float"
                    site = Site(op, op.name, next(iter(self._scheme.widths.values())), False, False, op.outputs[0])
                    if wanted == FLOAT and not role:
                        self._used.add(pattern)
                        break
                    self._refuse(pattern, wanted, site, f"{op.kind} {why}" if role else why)
            else:
                near = difflib.get_close_matches(pattern, [site.path for site in self._sites], n=1, cutoff=0.0)
                raise PorterError(
                    "PT414", f"no layer matches {pattern!r}", fix=f"Did you mean {near[0]}?" if near else None
                )


def _exact(pattern: str) -> bool:
    return not any(sign in pattern for sign in "*?[")


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in names)


def _names(site: Site) -> tuple[str, ...]:
    return site.path, site.op.name, site.output.name
