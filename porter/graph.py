# SPDX-License-Identifier: Apache-2.0
"""The interface of a captured model, the same for every dialect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from porter.errors import PorterError
from porter.findings import Finding
from porter.ops import Array, Op, Value
from porter.rewrite import Fragment

__all__ = ["OPSETS", "Graph", "Standing"]

#: The oldest and the newest ONNX opset that porter writes.
OPSETS = (7, 24)


class Standing(dict[str, Array]):
    """Arrays by name that are the same objects, with other numbers in them, in every sample."""


class Graph(ABC):
    """A model with static shapes: inputs, outputs, and ops in topological order.

    A dialect lifts its own nodes to :class:`~porter.ops.Op` and lowers fragments back; nothing above it sees a node.
    Names of values are unique and stable: a value that survives a rewrite keeps its name.
    """

    #: "fx" or "onnx".
    dialect: ClassVar[str]
    #: The model's inputs and outputs, in the order of the model's own signature.
    inputs: list[Value]
    outputs: list[Value]
    #: Where it was loaded from, for messages ("yolox_s.onnx", "yolox:yolox_s").
    source: str

    @property
    def opset(self) -> int | None:
        """The ONNX opset; None for a model that is not ONNX."""
        return None

    def at_opset(self, opset: int) -> tuple[Graph | None, list[Finding]]:
        """The same model at another ONNX opset: a new graph, or None and why each op has no form there (PT352).

        Raises:
            PorterError: PT519 for an opset that porter does not write, or a model that is not ONNX.
        """
        raise PorterError(
            "PT519", f"{self.source} is not an ONNX model, and has no opset", "--opset", "Write it as .onnx first."
        )

    def unfit_at(self, opset: int) -> list[Finding]:
        """Why each op has no form at another ONNX opset (PT352): nothing where :meth:`at_opset` converts the model."""
        return self.at_opset(opset)[1]

    @abstractmethod
    def ops(self) -> list[Op]:
        """Every op in topological order, lifted now (cached until the next change)."""

    def expresses(self, op: Op) -> bool:
        """Whether the dialect writes ``op``, which need not be of this graph, as one operation of its own, which is
        lifted to the same kind again."""
        return True

    def held(self, op: Op) -> Sequence[Op]:
        """The ops that the graph would have in the place of ``op``, after it was lowered: ``op`` itself, or what stands
        for it where the dialect has no such operation."""
        return (op,)

    def reads(self, op: Op) -> Sequence[str]:
        """The names of the values that the graph's own form of ``op`` reads, constants aside or not: more than its
        operands where the form has one of which only the dtype or shape counts, as CastLike has."""
        return [value.name for value in op.operands]

    @abstractmethod
    def replace(self, replacements: Iterable[tuple[Op, Fragment]]) -> None:
        """Put each fragment in the place of its op, in one pass, then drop what nothing reads any more.

        The results of a fragment take the names of the outputs they stand for. Model inputs and outputs keep name,
        order, shape and dtype.
        """

    @abstractmethod
    def evaluate(self, values: Sequence[Value], limit: int) -> dict[str, Array]:
        """Compute values that depend on constants and shapes only, by the framework's own kernels.

        Args:
            values: outputs of ops whose inputs, followed up, end in constants or in the shapes of other values.
            limit: the most bytes that any one result may take; larger ones are left out of the answer.
        """

    @abstractmethod
    def run(
        self, inputs: Sequence[Array] | Mapping[str, Array], taps: Sequence[str] = (), *, fast: bool = False
    ) -> list[Array]:
        """Run on the host: the outputs in order, then the values named by ``taps``.

        Args:
            inputs: in order, or by name.
            taps: names of values.
            fast: let the framework fuse and reorder what it computes, as in deployment; results then differ by a few
                float roundings. Never for graphs with ``quantize`` ops, whose integers such a rounding can change.

        Raises :class:`~porter.errors.PorterError` when an input is missing or has the wrong shape or dtype.
        """

    def streams(
        self, taps: Sequence[str], count: int, sample: Sequence[Array]
    ) -> list[Callable[[Sequence[Array]], Iterator[Mapping[str, Array]]]] | None:
        """Functions that run on one sample after another, each in a thread of its own, and give values by name, some at
        a time (as :class:`Standing`, where they lie in the same memory every time); None where the framework has no
        other way than :meth:`run`.

        Values are as :meth:`run` computes them with ``fast``. They are good until the next step, and may be views whose
        elements lie in another order of memory, with an axis as two: (N, C / b, b, H, W), of which ``reshape`` makes a
        copy of the value's own shape.

        Args:
            taps: names of values that ops compute.
            count: how many functions there shall be.
            sample: inputs to prove them with.

        Raises :class:`~porter.errors.PorterError`, and so do the functions, as :meth:`run` does.
        """
        return None

    @abstractmethod
    def apply(self, op: Op, operands: Sequence[Array | None]) -> list[Array]:
        """The outputs of one op of this graph on other operands, by the framework's own kernel for it.

        Args:
            op: one of :meth:`ops`.
            operands: an array for each of ``op.inputs``. Those of constants are not read: the op has its own. Shape and
                dtype may be others than the graph's, as far as the kernel takes them.
        """

    @abstractmethod
    def copy(self) -> Graph:
        """An independent graph (weights may be shared, they are never written)."""

    def quantizable(self) -> Graph:
        """A copy that can hold ``quantize`` and ``dequantize`` ops of every form, per channel too."""
        return self.copy()

    @abstractmethod
    def with_outputs(self, names: Sequence[str]) -> Graph:
        """A copy that ends at other values: the named ones are its outputs, and what they do not need is dropped.

        Args:
            names: of values that ops compute, each once. Inputs stay as they are.

        Raises:
            ValueError: a name that no op computes.
        """

    @abstractmethod
    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
        """A graph of the ops between some values and others; the ops stay as they are.

        Args:
            inputs: names of the values that it starts from: results of ops, or inputs of this graph. What the outputs
                need must follow from these and from constants.
            outputs: names of values that its ops compute, each once.

        Raises:
            ValueError: a name that is not a value of the graph, an output that no op computes, or one that needs a
                value that is not given.
        """

    @abstractmethod
    def with_constants(self, data: Mapping[str, Array]) -> Graph:
        """A copy in which the named constants hold other data: weights that changed, under the names they had.

        Args:
            data: for the name of a constant operand, an array of its shape and dtype as the ops show it.

        Raises:
            ValueError: a name that is no constant of the graph, another shape or dtype, or a constant that one op reads
                transposed and another does not.
        """

    @abstractmethod
    def save(self, path: Path, ledger: Mapping[str, Any] | None = None) -> None:
        """Write the model at ``path`` (already a temporary name), with the origin of each node and the ledger
        inside."""

    def producers(self) -> dict[str, Op]:
        """The op that computes each value, by the value's name."""
        return {out.name: op for op in self.ops() for out in op.outputs}

    def uses(self) -> dict[str, int]:
        """How many times each value is read by ops, plus one for each graph output."""
        count: dict[str, int] = {}
        for op in self.ops():
            for value in op.operands:
                count[value.name] = count.get(value.name, 0) + 1
        for value in self.outputs:
            count[value.name] = count.get(value.name, 0) + 1
        return count
