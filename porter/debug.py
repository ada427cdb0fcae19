# SPDX-License-Identifier: Apache-2.0
"""Where two models part: the first tensor, in the order of computation, that differs by more than it should.

Either side is a model that porter runs, or a *dump*: an ``.npz`` of tensors by name, as a device's debugger writes
them. Tensors are matched by name; a device's own spelling of a name ("head_Conv_output_0" for
"/head/Conv_output_0") and its own layout (NHWC, dropped axes of 1) are recognized.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.files import input_file
from porter.findings import origin_json
from porter.graph import Graph
from porter.ops import Array, Origin, Value
from porter.verify import TensorError, batches

__all__ = ["Dump", "Parting", "Place", "find_parting"]

#: An SQNR above this is the noise of float arithmetic; a fall that starts higher counts from here.
_CLEAN_DB = 100.0
#: The most bytes that the tensors of a dump may take.
_DUMP_BYTES = 8 * 2**30


@dataclass(slots=True)
class Place:
    """One tensor that both sides have.

    ``kind`` and ``origin`` are of the op that computes it ("" and unknown without a model). ``before``: the worst SQNR
    (dB) among the compared tensors that it is computed from, inf where there are none. ``how`` tells what had to be
    done to match it ("NHWC", "as head_Conv"), "" for nothing.
    """

    name: str
    error: TensorError
    kind: str = ""
    origin: Origin = field(default_factory=Origin)
    before: float = math.inf
    how: str = ""

    @property
    def fall(self) -> float:
        """How many dB the SQNR falls at this op, from at most 100 dB."""
        return min(self.before, _CLEAN_DB) - min(self.error.sqnr, _CLEAN_DB)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.error.to_json(),
            "kind": self.kind,
            "origin": origin_json(self.origin),
            "fall_db": round(self.fall, 2) if math.isfinite(self.fall) else None,
            "how": self.how,
        }


@dataclass(slots=True)
class Parting:
    """The comparison, tensor by tensor in the order of computation. ``ok``: no tensor is under ``min_sqnr`` dB."""

    reference: str
    other: str
    min_sqnr: float
    places: list[Place] = field(default_factory=list)
    inputs: int = 0
    #: Why tensors of the same name could not be compared, and how many have no partner.
    skipped: dict[str, str] = field(default_factory=dict)
    alone: int = 0

    def parts(self, place: Place) -> bool:
        """Whether the two sides differ there by more than they should."""
        return place.error.mismatched > 0 or place.error.sqnr < self.min_sqnr

    @property
    def first(self) -> Place | None:
        """The first tensor at which they part."""
        return next((place for place in self.places if self.parts(place)), None)

    @property
    def steepest(self) -> Place | None:
        """The tensor at which the SQNR falls most against what it is computed from; None where all are equal."""
        falling = [place for place in self.places if place.fall > 0]
        return max(falling, key=lambda place: place.fall, default=None)

    @property
    def ok(self) -> bool:
        return self.first is None

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "other": self.other,
            "ok": self.ok,
            "min_sqnr_db": self.min_sqnr,
            "inputs": self.inputs,
            "first": self.first.to_json() if self.first else None,
            "steepest": self.steepest.to_json() if self.steepest else None,
            "tensors": [place.to_json() for place in self.places],
            "skipped": self.skipped,
            "alone": self.alone,
        }


class Dump(Mapping[str, Array]):
    """Tensors by name from an ``.npz``, read one at a time.

    Raises:
        PorterError: PT501 no such file; PT470 when it is not an .npz of plain arrays, or holds more than 8 GiB.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = input_file(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > _DUMP_BYTES:
                raise PorterError(
                    "PT470", f"the dump holds {size / 2**30:.1f} GiB; porter reads up to {_DUMP_BYTES // 2**30}",
                    str(path), "Dump fewer tensors.",
                )  # fmt: skip
            self._file = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise self._wrong(error) from error

    def _wrong(self, error: Exception) -> PorterError:
        return PorterError(
            "PT470", f"this is no .npz of plain arrays: {error}", str(self.path),
            "Write one with numpy.savez(path, **{name: array}).",
        )  # fmt: skip

    def __getitem__(self, name: str) -> Array:
        try:
            return np.asarray(self._file[name])
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise self._wrong(error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.files)

    def __len__(self) -> int:
        return len(self._file.files)


Side = Graph | Dump


def find_parting(
    reference: Side,
    other: Side,
    inputs: Iterable[Sequence[Array]] = (),
    *,
    order: Graph | None = None,
    min_sqnr: float = 20.0,
    progress: Callable[[str], None] | None = None,
) -> Parting:
    """Compare everything that both sides name, in the order of computation.

    Args:
        reference, other: graphs that are run, or dumps.
        inputs: one list of arrays for each run, in the order of the graph's inputs. With a dump on one side there is
            one run, on the inputs that the dump holds, or else on the first of these.
        order: the graph whose order and lines are used; default the first side that is a graph, else the order of the
            reference dump.
        min_sqnr: in dB; a tensor under it parts.
        progress: called with a short text before each run.

    Raises:
        PorterError: PT471 when the sides have no tensor in common, PT472 when a dump does not hold the inputs and none
            are given.
    """
    say = progress or (lambda _text: None)
    sides = (reference, other)
    graph = order or next((side for side in sides if isinstance(side, Graph)), None)
    names = _names(graph, reference)
    pairs = _match(names, reference, other)
    if not pairs:
        raise PorterError(
            "PT471", f"{_title(reference)} and {_title(other)} have no tensor of the same name", None,
            f"Names of the first: {_some(_known(reference))}; of the second: {_some(_known(other))}.",
        )  # fmt: skip
    result = Parting(_title(reference), _title(other), min_sqnr)
    result.alone = len(names) - len(pairs)
    errors = {name: TensorError(name) for name in pairs}
    hows = {name: "" if b == name else f"as {b}" for name, (_, b) in pairs.items()}
    for sample in _runs(sides, inputs):
        result.inputs += 1
        say(f"comparing on input {result.inputs}")
        for group in _groups(pairs, graph):
            wanted = {name: pairs[name] for name in group}
            first = _fetch(reference, sample, [a for a, _ in wanted.values()])
            second = _fetch(other, sample, [b for _, b in wanted.values()])
            for name, (a, b) in wanted.items():
                fitted, how = _fit(first[a], second[b])
                if fitted is None:
                    result.skipped[name] = how
                    continue
                hows[name] = hows[name] or how
                errors[name].add(first[a], fitted)
    compared = [name for name in pairs if name not in result.skipped]
    result.places = _places(compared, errors, hows, graph)
    return result


def _title(side: Side) -> str:
    return side.source if isinstance(side, Graph) else side.path.name


def _known(side: Side) -> list[str]:
    if isinstance(side, Dump):
        return list(side)
    return [out.name for op in side.ops() for out in op.outputs]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _names(graph: Graph | None, reference: Side) -> list[str]:
    """What can be compared, in the order of computation."""
    if graph is not None:
        return [out.name for op in graph.ops() for out in op.outputs if out.shape is not None]
    return list(reference) if isinstance(reference, Dump) else []


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _match(names: Sequence[str], reference: Side, other: Side) -> dict[str, tuple[str, str]]:
    """For each name that both sides have: what the reference calls it, and what the other does."""

    def spellings(side: Side) -> Callable[[str], str | None]:
        known = set(_known(side))
        plain: dict[str, str | None] = {}
        for name in known:
            key = _plain(name)
            plain[key] = None if key in plain else name  # two names of one spelling match nothing
        return lambda name: name if name in known else plain.get(_plain(name))

    first, second = spellings(reference), spellings(other)
    found = {name: (first(name), second(name)) for name in names}
    return {name: (a, b) for name, (a, b) in found.items() if a is not None and b is not None}


def _runs(sides: tuple[Side, Side], inputs: Iterable[Sequence[Array]]) -> Iterator[Sequence[Array]]:
    graphs = [side for side in sides if isinstance(side, Graph)]
    dumps = [side for side in sides if isinstance(side, Dump)]
    if not graphs:
        yield ()
    elif not dumps:
        yield from inputs
    else:
        held = _held(graphs[0].inputs, dumps[0])
        sample = held if held is not None else next(iter(inputs), None)
        if sample is None:
            raise PorterError(
                "PT472", f"{dumps[0].path.name} does not hold the input {graphs[0].inputs[0].name} it was made with",
                None, "Add the inputs to the dump by their names, or give them with --data.",
            )  # fmt: skip
        yield sample


def _held(values: Sequence[Value], dump: Dump) -> list[Array] | None:
    """The model's inputs, where the dump has them all."""
    if any(value.name not in dump for value in values):
        return None
    return [dump[value.name] for value in values]


def _groups(pairs: Mapping[str, tuple[str, str]], graph: Graph | None) -> Iterator[list[str]]:
    """Names whose tensors fit in memory together."""
    if graph is None:
        yield from ([name] for name in pairs)
        return
    values = {out.name: out for op in graph.ops() for out in op.outputs}
    yield from (group for group in batches([values[name] for name in pairs]) if group)


def _fetch(side: Side, sample: Sequence[Array], names: Sequence[str]) -> dict[str, Array]:
    if isinstance(side, Dump):
        return {name: side[name] for name in names}
    computed = side.run(sample, names)
    return dict(zip(names, computed[len(computed) - len(names) :], strict=True))


def _fit(reference: Array, got: Array) -> tuple[Array | None, str]:
    """``got`` in the reference's layout, and what was done; None and why where it does not fit."""
    if got.shape == reference.shape:
        return got, ""
    if got.size == reference.size and got.ndim in (3, 4):
        first = np.moveaxis(got, -1, got.ndim - 3)
        if first.shape == reference.shape:
            return first, "NHWC"
    if [n for n in got.shape if n != 1] == [n for n in reference.shape if n != 1]:
        return got.reshape(reference.shape), ""
    return None, f"shape {got.shape}, expected {reference.shape}"


def _places(
    names: Sequence[str], errors: Mapping[str, TensorError], hows: Mapping[str, str], graph: Graph | None
) -> list[Place]:
    if graph is None:
        return [Place(name, errors[name], how=hows[name]) for name in names]
    wanted = set(names)
    arrives: dict[str, float] = {}  # the worst SQNR of the nearest compared tensors upstream, by value
    places = []
    for op in graph.ops():
        before = min((arrives.get(value.name, math.inf) for value in op.operands), default=math.inf)
        for out in op.outputs:
            arrives[out.name] = before
            if out.name in wanted:
                places.append(Place(out.name, errors[out.name], op.kind, op.origin, before, hows[out.name]))
                arrives[out.name] = errors[out.name].sqnr
    return places
