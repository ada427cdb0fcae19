# SPDX-License-Identifier: Apache-2.0
"""The sessions of one model, made when they are asked for and kept as long as the model does not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from porter.dialects.onnx_read import Model
from porter.dialects.onnx_run import Session
from porter.dialects.onnx_save import tapped
from porter.dialects.onnx_stream import Pieces, pieces
from porter.ops import Array, Value

__all__ = ["Sessions"]

Feeds = Mapping[str, Array]


class Sessions:
    """Runs a model.

    Args:
        source: for messages.
    """

    def __init__(self, model: Model, source: str) -> None:
        self._model, self._source = model, source
        self._made: dict[tuple[bool, tuple[str, ...]], Session] = {}
        self._pieces: dict[tuple[str, ...], Pieces | None] = {}

    def run(self, feeds: Feeds, names: Sequence[str], fast: bool = False) -> list[Array]:
        """The values called ``names``, which nodes compute.

        Args:
            fast: with onnxruntime's graph optimizations.

        Raises:
            PorterError: PT353 when onnxruntime fails.
        """
        inner = tuple(dict.fromkeys(name for name in names if name not in self._model.outputs))
        session = self._made.get((fast, inner))
        if session is None:
            proto, fed = tapped(self._model, inner)
            session = self._made[fast, inner] = Session(proto, self._model.folder, fed, self._source, fast)
        return session.run(feeds, names)

    def pieces(self, wanted: Sequence[Value], known: Mapping[str, Value], feeds: Feeds) -> Pieces | None:
        """The model in pieces that give ``wanted``, where it can be cut: see :mod:`onnx_stream`."""
        names = tuple(value.name for value in wanted)
        if names not in self._pieces:
            proto, fed = tapped(self._model, [name for name in names if name not in self._model.outputs])
            self._pieces[names] = None if fed else pieces(proto, self._model.folder, wanted, known, feeds)
        return self._pieces[names]
