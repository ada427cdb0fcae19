# SPDX-License-Identifier: Apache-2.0
"""Running ONNX graphs on the host, by onnxruntime's CPU kernels, as a rule with every graph optimization off.

Off, so that a tapped value is the one that the graph says, and two graphs differ only by what a rewrite changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from porter.errors import PorterError
from porter.ops import Array
from porter.threads import threads

__all__ = ["Session"]

#: Tensors of this many bytes are given to the session as they lie in memory, instead of inside of the model.
LARGE = 1 << 20


class Session:
    """An onnxruntime session of a model, with constants that are fed instead of stored.

    Args:
        model: the graph; values in ``fed`` are among its inputs.
        folder: where external data lies.
        fed: constants by input name.
        fast: with onnxruntime's graph optimizations.
        arena: keep memory for the next run. A session of a few nodes, one of hundreds that live at once, must not.

    Raises:
        PorterError: PT353 when onnxruntime does not take the model.
    """

    def __init__(
        self,
        model: ModelProto,
        folder: Path | None,
        fed: Mapping[str, Array],
        source: str,
        fast: bool = False,
        arena: bool = True,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if fast else levels.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads()
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = arena
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
