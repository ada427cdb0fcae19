# SPDX-License-Identifier: Apache-2.0
"""Running ONNX graphs on the host, by onnxruntime's CPU kernels with every graph optimization off.

Off, so that a tapped value is the one that the graph says, and two graphs differ only by what a rewrite changed.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from porter.dialects.onnx_proto import np_dtype
from porter.errors import PorterError
from porter.ops import Array, Value

__all__ = ["Session", "check_inputs", "threads"]

#: Tensors of this many bytes are given to the session as they lie in memory, instead of inside of the model.
LARGE = 1 << 20


def threads() -> int:
    """Threads for one operator: PORTER_THREADS or OMP_NUM_THREADS; 0 (one a core) when neither is set."""
    for name in ("PORTER_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdigit():
            return int(text)
    return 0


class Session:
    """An onnxruntime session of a model, with constants that are fed instead of stored.

    Args:
        model: the graph; values in ``fed`` are among its inputs.
        folder: where external data lies.
        fed: constants by input name.

    Raises:
        PorterError: PT353 when onnxruntime does not take the model.
    """

    def __init__(self, model: ModelProto, folder: Path | None, fed: Mapping[str, Array], source: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads()
        options.log_severity_level = 4
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self._fed = dict(fed)
        self._source = source
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each status, below Exception
            raise PorterError("PT353", f"onnxruntime does not run {source}: {_first(error)}") from error

    def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        """The values called ``names``."""
        try:
            found: list[Any] = self._session.run(list(names), {**self._fed, **feeds})
        except Exception as error:  # as above
            raise PorterError("PT353", f"onnxruntime failed while running {self._source}: {_first(error)}") from error
        return found


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


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
        if value.dtype is not None and array.dtype != np_dtype(value.dtype):
            raise PorterError("PT506", f"input {value.name!r} is {value.dtype}, not {array.dtype}", where)
        if value.shape is not None and array.shape != value.shape:
            raise PorterError(
                "PT506", f"input {value.name!r} has the shape {list(value.shape)}, not {list(array.shape)}", where
            )
        feeds[value.name] = np.asarray(array, order="C")
    return feeds
