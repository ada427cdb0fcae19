# SPDX-License-Identifier: Apache-2.0
"""The inputs of a run, checked against those of the graph."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.ops import Array, Value, numpy_dtype

__all__ = ["check_inputs"]


def check_inputs(
    inputs: Sequence[Array] | Mapping[str, Array], wanted: Sequence[Value], source: str
) -> dict[str, Array]:
    """Inputs by name, checked against the graph's.

    Raises:
        PorterError: PT506 when one is missing, unknown, or of another shape or dtype.
    """
    have = "; ".join(f"{v.name} {v.dtype}{list(v.shape or ())}" for v in wanted)
    where = f"{source} has: {have or 'no inputs'}"
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(wanted):
            raise PorterError("PT506", f"the model has {len(wanted)} inputs, and {len(inputs)} are given", where)
        inputs = {value.name: array for value, array in zip(wanted, inputs, strict=True)}
    known = {value.name for value in wanted}
    for name in inputs:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            raise PorterError(
                "PT506", f"the model has no input {name!r}", where, f"Did you mean {near[0]!r}?" if near else None
            )
    feeds = {}
    for value in wanted:
        if value.name not in inputs:
            raise PorterError("PT506", f"input {value.name!r} is missing", where)
        array = np.asarray(inputs[value.name])
        if value.dtype is not None and array.dtype != _dtype(value.dtype):
            raise PorterError("PT506", f"input {value.name!r} is {value.dtype}, not {array.dtype}", where)
        if value.shape is not None and array.shape != value.shape:
            raise PorterError(
                "PT506", f"input {value.name!r} has the shape {list(value.shape)}, not {list(array.shape)}", where
            )
        feeds[value.name] = np.asarray(array, order="C")
    return feeds


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(object) if name == "string" else numpy_dtype(name)
