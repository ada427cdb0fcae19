# SPDX-License-Identifier: Apache-2.0
"""Which channels go: a global threshold on gamma, then every rule that makes the result buildable.

One threshold is taken over the gammas of all layers that may lose channels: the given share of them lies below it. A
layer marks its channels below the threshold, but keeps at least its floor. From the marks to the plan:

1. a residual sum's channels go only where every layer that feeds it marks them;
2. the two sides of a depthwise convolution keep the same channels: ``scheme="intersection"`` removes what both sides
   mark, ``scheme="max"`` as many as the side that marks fewer, those that pass least through both (the geometric mean
   of the two gammas);
3. the groups of a grouped convolution, and the pieces of a chunk, keep equally many: ``intersection`` removes a place
   that all of them mark, ``max`` lets each remove its own weakest;
4. a layer keeps a multiple of the channels that the target prefers, or all; a piece of a split keeps one.

Rules 3 and 4 and the floors only take channels back, strongest first, until all hold: so the search ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import numpy.typing as npt

from porter.compress.channels import Atoms, Bools, Channels, Layer
from porter.errors import PorterError

__all__ = ["Plan", "Scheme", "make_plan"]

Scheme = Literal["intersection", "max"]
Gammas = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes.

    removed: for each atom whether it goes. threshold: of |gamma|. limit: the largest |gamma| that empties no layer,
    the smallest of the layers' maxima.
    """

    removed: Bools
    threshold: float
    limit: float

    def kept(self, atoms: Atoms) -> npt.NDArray[np.intp]:
        """The positions of ``atoms`` that stay."""
        return np.flatnonzero(~self.removed[atoms])


def make_plan(
    channels: Channels,
    gammas: Gammas,
    percent: float,
    *,
    layer_keep: float = 0.1,
    scheme: Scheme = "intersection",
    multiple: int = 1,
    skip: Collection[str] = (),
) -> Plan:
    """Choose the channels to remove.

    Args:
        channels: of the model.
        gammas: |gamma| of each batch norm layer by path, (C,).
        percent: the share of all gammas that lie below the threshold, 0 to 1.
        layer_keep: the least share of a layer's channels that stays, 0 to 1; one channel always stays.
        scheme: see the module.
        multiple: a layer keeps a multiple of it, or all.
        skip: patterns of paths of layers that keep all channels.

    Raises:
        PorterError: PT601 when an option is out of range; PT602 when the threshold would empty a layer and
            ``layer_keep`` is 0 (it names the layer and the highest percent); PT603 when no channel may go.
    """
    _check_options(percent, layer_keep, scheme, multiple)
    chooser = _Chooser(channels, gammas, skip)
    threshold = chooser.threshold(percent)
    marked = chooser.marks(threshold, layer_keep, percent)
    removed = chooser.classes(marked, scheme)
    chooser.settle(removed, layer_keep, scheme, multiple)
    return Plan(removed[channels.tied], threshold, chooser.limit)


def _check_options(percent: float, layer_keep: float, scheme: str, multiple: int) -> None:
    problem = None
    if not 0 <= percent < 1:
        problem = f"percent is a share of the channels from 0 to below 1, not {percent:g}"
    elif not 0 <= layer_keep <= 1:
        problem = f"layer_keep is a share of a layer's channels from 0 to 1, not {layer_keep:g}"
    elif scheme not in ("intersection", "max"):
        problem = f"the scheme is intersection or max, not {scheme!r}"
    elif multiple < 1:
        problem = f"the channel multiple is at least 1, not {multiple}"
    if problem:
        raise PorterError("PT601", problem)


class _Chooser:
    """The rules, on classes of atoms (``channels.tied``). ``removed`` is indexed by class everywhere here."""

    def __init__(self, channels: Channels, gammas: Gammas, skip: Collection[str]) -> None:
        self.channels = channels
        count = len(channels.tied)
        self.strength = np.full(count, -1.0)  # the largest |gamma| of a class of `tied`
        self.agreed_strength = np.full(count, -1.0)  # and of a class of `agreed`
        stay = np.zeros(count, np.bool_)
        stay[list(channels.fixed)] = True
        for layer in channels.layers.values():
            if any(fnmatchcase(layer.path, pattern) for pattern in skip):
                stay[channels.tied[layer.outputs]] = True
        self.norms: dict[str, Atoms] = {}
        self.gammas: dict[str, npt.NDArray[np.float64]] = {}
        for layer in channels.norms():
            if layer.path in gammas:
                np.maximum.at(self.strength, channels.tied[layer.outputs], gammas[layer.path])
                np.maximum.at(self.agreed_strength, channels.agreed[layer.outputs], gammas[layer.path])
        self.stay = stay | (self.strength < 0)
        for layer in channels.norms():
            if layer.path in gammas and not self.stay[channels.tied[layer.outputs]].all():
                self.norms[layer.path] = layer.outputs
                self.gammas[layer.path] = gammas[layer.path]
        if not self.norms:
            reasons = sorted({f"{why.reason} [{why.origin}]" for why in channels.fixed.values() if why.origin.known})
            raise PorterError(
                "PT603", "no layer of this model may lose a channel", "; ".join(reasons[:3]) or None,
                "A channel can go where a batch norm judges it and what reads it is understood. With rebuild, sizes "
                "that the code writes out can change.",
            )  # fmt: skip

    @property
    def limit(self) -> float:
        return float(min(gamma.max() for gamma in self.gammas.values()))

    def threshold(self, percent: float) -> float:
        pool = np.sort(np.concatenate(list(self.gammas.values())))
        return float(pool[int(len(pool) * percent)])

    def marks(self, threshold: float, layer_keep: float, percent: float) -> dict[str, Bools]:
        """For each layer the channels below the threshold, without those that its floor keeps."""
        marked = {}
        for path, gamma in self.gammas.items():
            below = gamma < threshold
            if below.all() and layer_keep == 0:
                pool = np.concatenate(list(self.gammas.values()))
                highest = float((pool < self.limit).mean())
                raise PorterError(
                    "PT602", f"percent {percent:g} removes every channel of {path}",
                    f"the threshold is {threshold:.4g}; the largest |gamma| of the layer is {gamma.max():.4g}",
                    f"At most {math.floor(highest * 1000) / 1000:g} empties no layer; or keep a floor with layer_keep.",
                )  # fmt: skip
            order = np.argsort(-gamma, kind="stable")
            below[order[: _floor(len(gamma), layer_keep)]] = False
            marked[path] = below
        return marked

    def classes(self, marked: Mapping[str, Bools], scheme: Scheme) -> Bools:
        """Rules 1 and 2: the classes that go."""
        channels = self.channels
        agreed = np.zeros(len(channels.agreed), np.bool_)
        against = np.zeros(len(channels.agreed), np.bool_)
        for layer in channels.norms():
            roots = channels.agreed[layer.outputs]
            if layer.path in marked:
                agreed[roots] = True
                against[roots[~marked[layer.path]]] = True
            else:
                against[roots] = True
        goes = agreed & ~against
        if scheme == "max":
            goes = self._larger_side(goes)
        removed = ~self.stay
        judged = np.flatnonzero(self.agreed_strength >= 0)
        removed[channels.tied[judged[~goes[judged]]]] = False
        return removed

    def _larger_side(self, goes: Bools) -> Bools:
        """Rule 2 for ``max``: both sides of each depthwise convolution lose the same channels."""
        goes = goes.copy()
        for layer in self.channels.depthwise:
            assert layer.inputs is not None
            inside = self.channels.agreed[layer.inputs]
            outside = self.channels.agreed[layer.outputs].reshape(len(inside), -1)
            if (self.agreed_strength[inside] < 0).any() or (self.agreed_strength[outside] < 0).any():
                continue  # one side has no gamma: the other one decides
            out_goes = goes[outside].all(1)
            count = min(int(goes[inside].sum()), int(out_goes.sum()))
            passes = np.sqrt(self.agreed_strength[inside] * self.agreed_strength[outside].max(1))
            weakest = np.argsort(passes, kind="stable")[:count]
            chosen = np.zeros(len(inside), np.bool_)
            chosen[weakest] = True
            goes[inside] = chosen
            goes[outside] = chosen[:, None]
        return goes

    def settle(self, removed: Bools, layer_keep: float, scheme: Scheme, multiple: int) -> None:
        """Rules 3 and 4 and the floors: take classes back until nothing changes."""
        tied = self.channels.tied
        layers = _distinct(self.channels.layers.values(), tied)
        equal = [tuple(tied[part] for part in parts) for parts in self.channels.equal]
        pieces = [tied[piece] for piece in self.channels.pieces if len(piece)]
        before = -1
        while before != int(removed.sum()):
            before = int(removed.sum())
            for roots in layers:
                self._floor(removed, roots, layer_keep, multiple)
            for parts in equal:
                self._level(removed, parts, scheme)
            for piece in pieces:
                if removed[piece].all():
                    self._give_back(removed, piece, 1)

    def _floor(self, removed: Bools, roots: Atoms, layer_keep: float, multiple: int) -> None:
        total, kept = len(roots), int((~removed[roots]).sum())
        least = max(kept, _floor(total, layer_keep))
        wanted = min(total, -(-least // multiple) * multiple)
        while kept < wanted or (kept % multiple and kept < total):
            self._give_back(removed, roots, 1)
            kept = int((~removed[roots]).sum())

    def _level(self, removed: Bools, parts: tuple[Atoms, ...], scheme: Scheme) -> None:
        """Equally many in every part."""
        if scheme == "intersection":
            by_place = np.stack(parts)
            gone = removed[by_place]
            removed[by_place[:, ~gone.all(0)]] = False
            return
        kept = [int((~removed[part]).sum()) for part in parts]
        for part in parts:
            while int((~removed[part]).sum()) < max(kept):
                self._give_back(removed, part, 1)

    def _give_back(self, removed: Bools, roots: Atoms, count: int) -> None:
        """Keep the ``count`` strongest of the removed classes among ``roots``."""
        gone = np.unique(roots[removed[roots]])
        strongest = gone[np.argsort(-self.strength[gone], kind="stable")[:count]]
        removed[strongest] = False


def _floor(total: int, layer_keep: float) -> int:
    """The least number of channels that a layer keeps."""
    return max(1, math.ceil(total * layer_keep - 1e-9))


def _distinct(layers: Collection[Layer], tied: Atoms) -> list[Atoms]:
    """The classes of each layer's output channels; layers with the same ones count once."""
    found: dict[tuple[int, ...], Atoms] = {}
    for layer in layers:
        roots = tied[layer.outputs]
        found.setdefault(tuple(roots.tolist()), roots)
    return list(found.values())
