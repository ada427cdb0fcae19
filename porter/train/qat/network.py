# SPDX-License-Identifier: Apache-2.0
"""The network that is trained: a captured module, legal for its target, with fake quantization where the target's
integers are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from porter.dialects.fx import FxGraph
from porter.errors import PorterError
from porter.findings import Finding
from porter.legalize import Ledger
from porter.ops import Array
from porter.quantize.adopt import Adopted
from porter.quantize.calibrate import Calibration
from porter.quantize.encode import encode
from porter.quantize.encodings import Encoding, Encodings
from porter.quantize.numerics import BITS, Dtype
from porter.quantize.observers import NotFiniteError, Observer, make_observer
from porter.quantize.plan import Group, Site
from porter.quantize.scheme import Scheme
from porter.target import Target
from porter.train.qat.batch_norm import factor_rows, fold
from porter.train.qat.fake_quant import (
    Quantizer,
    fake_bias,
    fake_weight,
    roomy,
    straight_through,
    weight_steps,
)
from porter.train.qat.outputs import OutputRule
from porter.train.qat.prepared import Initial, Shared, constant_groups, put, quantizer_names, summed
from porter.train.qat.program import Key, Program, Source
from porter.verify import Evidence

__all__ = ["QatNetwork"]

#: The child of the network that holds the quantizers.
QUANTIZERS = "quantizers"


class QatNetwork(nn.Module):
    """A module that trains with the integers of a target; :func:`porter.train.qat.convert` makes it.

    An ordinary ``nn.Module``. Its parameters and buffers keep the names that they had in the float module (a layer that
    absorbed a batch norm has one more ``bias`` at most), and the scales of activations are
    ``quantizers.<module path of the tensor>.scale``. It starts in floats: call :meth:`observe`, show it batches, then
    :meth:`freeze_ranges`; or load a state that has scales, and call :meth:`fake_quant`.

    In evaluation mode it computes what :class:`~porter.quantize.simulate.Simulator` computes as "fake", up to float32
    rounding. Gradients work under ``DistributedDataParallel``.
    """

    def __init__(self, shared: Shared, initial: Mapping[str, Initial], learned: bool) -> None:
        super().__init__()
        self._shared = shared
        self._observing = False
        self._quantizing = False
        self._frozen_norms = False
        self._sync_norms = False
        self._ready = False
        self._samples = 0
        self._where = torch.device("cpu")
        self._cache: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._observers: dict[str, Observer] = {}
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for name, held in initial.items():
            self._places[name] = put(self, name, held)
        compiled = shared.prepared.compiled()
        self._program, self._layers = compiled.program, compiled.layers
        self._quantizers: dict[Key, str] = quantizer_names(shared.prepared, compiled.keys)
        self._child = QUANTIZERS if QUANTIZERS not in self._modules else f"{QUANTIZERS}_"
        children = self._modules[self._child] = nn.Module()
        scheme, sums = shared.scheme, summed(shared.prepared)
        self._constants = constant_groups(shared.prepared)
        for key, name in self._quantizers.items():
            symmetric = scheme.symmetric(key[1])
            exact = key[0] in sums
            children._modules[name] = Quantizer(
                key[1],
                scheme.rounding,
                scheme.rule,
                symmetric,
                learned and BITS[key[1]] == 8 and key in compiled.used and key[0] not in self._constants,
                exact,
            )
        if shared.any_batch is None:
            shared.any_batch = self._runs_batches()

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def target(self) -> Target:
        return self._shared.target

    @property
    def mode(self) -> Literal["fuse_bn", "with_bn"]:
        return self._shared.mode

    @property
    def findings(self) -> list[Finding]:
        """What :func:`~porter.train.qat.convert` has to say."""
        return list(self._shared.prepared.findings)

    @property
    def ledger(self) -> Ledger:
        """The rewrites that made the module legal."""
        return self._shared.prepared.ledger

    @property
    def evidence(self) -> Evidence:
        """That the legal graph computes what the module computes."""
        return self._shared.evidence

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(value.name for value in self._shared.prepared.graph.outputs)

    @property
    def rules(self) -> Mapping[str, OutputRule]:
        """The rule of each output, by name."""
        return self._shared.prepared.rules

    @property
    def leaves(self) -> Mapping[str, Dtype | None]:
        """The dtype in which each output leaves the device; None: a float, or the accumulator's int32."""
        return self._shared.prepared.leaves

    @property
    def scheme(self) -> Scheme:
        return self._shared.scheme

    @property
    def any_batch(self) -> bool:
        """Whether one captured graph runs batches of every size (it was tried); else each size has its own."""
        return bool(self._shared.any_batch)

    def extra_repr(self) -> str:
        return f"{self.target.name}, {self.mode}, {len(self._layers)} layers, {len(self._quantizers)} quantizers"

    # -- states --------------------------------------------------------------------------------------------------

    def observe(self, on: bool = True) -> QatNetwork:
        """Let observers see the tensors of each forward. While :meth:`fake_quant` is off (the start), floats flow:
        calibration. Each batch is one sample; use evaluation mode."""
        if on and not self._observers:
            spec = self._shared.observer
            self._observers = {group.name: make_observer(spec) for group in self._shared.prepared.plan.groups}
        self._observing = on
        return self

    def fake_quant(self, on: bool = True) -> QatNetwork:
        """Quantize, or let floats flow. The next forward raises PT730 when a scale is not known."""
        self._quantizing = on
        return self

    def freeze_ranges(self) -> QatNetwork:
        """Scales from what the observers saw, in every process of ``torch.distributed``; from here on the network
        quantizes and observes no more.

        Raises:
            PorterError: PT730 when a tensor was never observed; PT734 when what processes saw cannot be put together.
        """
        observers = self._merged()
        groups = {group.name: group for group in self._shared.prepared.plan.groups}
        for (name, dtype), quantizer in self._by_key().items():
            found = observers[name].range_for(dtype, self.scheme) if name in observers else None
            if found is None:
                raise PorterError("PT730", f"no sample was observed of {groups[name].name}", where=self._source,
                                  fix="Call observe() and show the network at least one batch first.")  # fmt: skip
            described = observers[name].describe(dtype, self.scheme)
            quantizer.set(self.scheme.encoding(*found, dtype, described))
        self._observers = {}
        self._ready = False
        return self.observe(False).fake_quant()

    def _merged(self) -> dict[str, Observer]:
        """The observers of all processes in one, the same in each."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self._observers
        mine = (self._samples, {name: observer.state() for name, observer in self._observers.items()})
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, mine)
        self._samples = sum(samples for samples, _ in every)
        merged: dict[str, Observer] = {}
        for _, states in every:
            for name, state in states.items():
                other = make_observer(self._shared.observer)
                other.restore(state)
                if name not in merged:
                    merged[name] = other
                    continue
                try:
                    merged[name].merge(other)
                except ValueError as error:
                    raise PorterError(
                        "PT734", f"the observers of {name} do not join: {error}", self._source,
                        "Take an observer without `iteration`, or one process.",
                    ) from error  # fmt: skip
        return merged

    def freeze_batch_norm(self, on: bool = True) -> QatNetwork:
        """In training, too, batch norms use their running statistics, and leave them as they are."""
        self._frozen_norms = on
        return self

    def sync_batch_norm(self, on: bool = True) -> QatNetwork:
        """In training, batch norms use the statistics of the batches of all processes together."""
        self._sync_norms = on
        return self

    def scale_parameters(self) -> list[nn.Parameter]:
        """The learned scales. Weight decay does not belong on them."""
        return [q.scale for q in self._by_key().values() if isinstance(q.scale, nn.Parameter)]

    def _by_key(self) -> dict[Key, Quantizer]:
        children = cast(nn.Module, self._modules[self._child])._modules
        return {key: cast(Quantizer, children[name]) for key, name in self._quantizers.items()}

    def _quantizer(self, key: Key) -> Quantizer:
        return cast(Quantizer, cast(nn.Module, self._modules[self._child])._modules[self._quantizers[key]])

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = False

    # -- running -------------------------------------------------------------------------------------------------

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs as real numbers (also where ``dequant_output`` is False).

        Args:
            inputs: float32, shaped as the example but for the first axis, which may have any size.

        Raises:
            PorterError: PT506 for another number or shape of inputs; PT730 when a scale is not known; PT407 when a
                tensor that is observed holds NaN or infinity; PT735 when the model cannot be run with such a batch.
        """
        if self._quantizing and not self._ready:
            self._require_scales()
        if self._quantizing:
            self._settle()
        program = self._program_for(inputs)
        return self._observed(program, inputs) if self._observing else self._run(program, inputs)

    def _run(
        self, program: Program, inputs: Sequence[Tensor], look: Callable[[int, Any], None] | None = None
    ) -> tuple[Tensor, ...]:
        self._where = inputs[0].device if inputs else self._where
        try:
            return program.run(self, inputs, look)
        finally:
            self._cache.clear()

    def _settle(self) -> None:
        for quantizer in self._by_key().values():
            quantizer.settle()

    def _require_scales(self) -> None:
        for key in self._quantizers:
            if key[0] in self._constants:
                self._cover(key, self.constant(self._constants[key[0]]))
        for name, quantizer in zip(self._quantizers.values(), self._by_key().values(), strict=True):
            scale = float(quantizer.scale.detach())
            if not self._ready:
                quantizer.forget()
            if scale == 0:
                raise PorterError("PT730", f"the scale of {name} is not known", self._source,
                                  "Calibrate (observe, then freeze_ranges) or load a calibrated state.")  # fmt: skip
            if not math.isfinite(scale) or scale < 0:
                raise PorterError("PT732", f"the scale of {name} is {scale:g}", where=self._source,
                                  fix="Go back to an earlier checkpoint, with a smaller learning rate.")  # fmt: skip
        self._ready = True

    @property
    def _source(self) -> str:
        return self._shared.prepared.graph.source

    def _program_for(self, inputs: Sequence[Tensor]) -> Program:
        wanted = self._shared.prepared.graph.inputs
        got = [tuple(x.shape[1:]) for x in inputs]
        if got != [tuple((v.shape or ())[1:]) for v in wanted]:
            raise PorterError(
                "PT506", f"the inputs are {[tuple(x.shape) for x in inputs]}", self._source,
                f"They must be [N, ...] of {[v.shape for v in wanted]}; shapes are fixed when a model is captured.",
            )  # fmt: skip
        batch = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
        if batch == 1 or self._shared.any_batch:
            return self._program
        if batch not in self._shared.programs:
            self._shared.programs[batch] = self._captured_for(batch)
        return self._shared.programs[batch]

    def _captured_for(self, batch: int) -> Program:
        """The program of another batch size: captured anew, with the same quantizers and parameters."""
        shared = self._shared
        examples = [torch.zeros(batch, *(v.shape or ())[1:]) for v in shared.prepared.graph.inputs]
        prepared = shared.preparer(examples)
        compiled = prepared.compiled()
        same = (compiled.layers.keys(), set(compiled.keys)) == (self._layers.keys(), set(self._quantizers))
        known = {source for source in prepared.sources.values() if isinstance(source, str)} <= self._places.keys()
        if not (same and known):
            raise PorterError("PT735", f"with batches of {batch} the model is quantized in other places", self._source,
                              "Train with batches of 1, or write the model so that N appears in no shape.")  # fmt: skip
        return compiled.program

    def _runs_batches(self) -> bool:
        """Whether the program of one sample computes two at once, each as alone."""
        generator = torch.Generator().manual_seed(0)
        shapes = [v.shape or () for v in self._shared.prepared.graph.inputs]
        if any(not shape for shape in shapes):
            return False
        pair = [torch.rand(2, *shape[1:], generator=generator) for shape in shapes]
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                both = self._run(self._program, pair)
                alone = [self._run(self._program, [x[i : i + 1] for x in pair]) for i in range(2)]
        except (RuntimeError, ValueError, IndexError):
            return False
        finally:
            self.train(training)
        return all(
            out.shape[:1] == (2,) and out.shape[1:] == a.shape[1:]
            and torch.allclose(out, torch.cat([a, b]), rtol=1e-3, atol=1e-4 * max(1.0, float(out.abs().max())))
            for out, a, b in zip(both, *alone, strict=True)
        )  # fmt: skip

    def _observed(self, program: Program, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        observed = self._shared.prepared.plan.observed
        wanted = {program.values[name]: name for names in observed.values() for name in names if name in program.values}
        arrays: dict[str, Array] = {}

        def look(slot: int, x: Any) -> None:
            name = wanted.get(slot)
            if name is not None:
                arrays[name] = x.detach().float().cpu().numpy()

        outputs = self._run(program, inputs, look)
        for group, names in observed.items():
            parts = [arrays[name] for name in names if name in arrays]
            try:
                if parts:
                    self._observers[group].observe(*parts)
            except NotFiniteError as error:
                bad = next(name for name in names if name in arrays and not np.isfinite(arrays[name]).all())
                raise PorterError("PT407", f"the value {program.labels[program.values[bad]]}: {error}", self._source,
                                  "Run the float model on this batch, and check its weights.") from error  # fmt: skip
        self._samples += inputs[0].shape[0] if inputs[0].ndim else 1
        return outputs

    def check_finite(self, losses: Mapping[str, Tensor] | None = None, inputs: Sequence[Tensor] = ()) -> None:
        """See that training is sound; for the moment when it may not be (it costs a pass over all parameters).

        Args:
            losses: by name.
            inputs: when given, a forward finds the first tensor that is not finite.

        Raises:
            PorterError: PT732 that names what is NaN or infinite, first of scales, parameters, tensors, losses.
        """

        def refuse(what: str, x: Tensor) -> PorterError:
            bad = int((~torch.isfinite(x)).sum())
            said = f"{float(x):g}" if x.numel() == 1 else f"not finite ({bad} of {x.numel()} values)"
            return PorterError("PT732", f"{what} is {said}", where=self._source,
                               fix="Go back to the last checkpoint, with a smaller learning rate.")  # fmt: skip

        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if not torch.isfinite(tensor).all():
                raise refuse(f"the {'scale' if name.endswith('.scale') else 'tensor'} {name}", tensor.detach())
        if inputs:
            program = self._program_for(inputs)

            def look(slot: int, x: Any) -> None:
                if isinstance(x, Tensor) and x.is_floating_point() and not torch.isfinite(x).all():
                    raise refuse(f"the value {program.labels.get(slot, 'of an operand')}", x)

            training = self.training
            self.eval()
            try:
                with torch.no_grad():
                    self._run(program, inputs, look)
            finally:
                self.train(training)
        for name, loss in (losses or {}).items():
            if not torch.isfinite(loss.detach()).all():
                raise refuse(f"the loss {name}", loss.detach())

    # -- what steps ask (porter.train.qat.program.Runtime) ---------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether batch norms normalize by the batch."""
        return self.training and not self._frozen_norms

    @property
    def sync(self) -> bool:
        """Whether by the batches of all processes."""
        return self._sync_norms

    def state(self, name: str) -> Tensor:
        """A parameter or buffer by its name in the state dict."""
        holder, leaf = self._places[name]
        found = holder._parameters.get(leaf)
        return cast(Tensor, holder._buffers[leaf] if found is None else found)

    def constant(self, source: Source) -> Tensor:
        """A parameter or buffer by its name, or the tensor itself where the inputs are."""
        return self.state(source) if isinstance(source, str) else source.to(self._where)

    def fake(self, key: Key, x: Tensor) -> Tensor:
        """The tensor through a quantizer, or as it is while the network does not quantize."""
        if not self._quantizing:
            return x
        if key[0] in self._constants:
            self._cover(key, x)
            return straight_through(x, self._quantizer(key)(x.detach()))
        return cast(Tensor, self._quantizer(key)(x))

    def _cover(self, key: Key, x: Tensor) -> None:
        """Let the scale of a constant follow it, as that of a weight does."""
        low, high = torch.aminmax(x.detach())
        self._quantizer(key).set(self.scheme.encoding(float(low), float(high), key[1], "extremes"))

    def fake_input(self, path: str, x: Tensor) -> Tensor:
        """The tensor through the widest quantizer of a layer's inputs."""
        if not self._quantizing:
            return x
        quantizer, step = self._widest(path)
        return cast(Tensor, quantizer(x, step))

    def _widest(self, path: str) -> tuple[Quantizer, Tensor]:
        """The widest quantizer of a layer's inputs, and its step. The others' scales have gradients of zero: in every
        process the same parameters take part."""
        found = [self._quantizer(key) for key in self._layers[path].inputs]
        if len(found) == 1:
            return found[0], found[0].step()
        widest = int(torch.stack([quantizer.bound() for quantizer in found]).argmax())
        return found[widest], torch.stack([quantizer.step() for quantizer in found])[widest]

    def operands(self, path: str) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a quantized layer, as its integers hold them (floats while nothing is quantized)."""
        if path not in self._cache:
            self._cache[path] = self._make_operands(path)
        return self._cache[path]

    def _make_operands(self, path: str) -> tuple[Tensor, Tensor | None]:
        layer, scheme = self._layers[path], self.scheme
        unit = layer.unit
        bias: Tensor | None
        if unit is not None and self.live and not (self._quantizing and layer.quantized):
            return self.state(unit.weight), None
        if unit is not None:
            weight, bias = fold(unit, self.state)
        else:
            weight = self.constant(cast(Source, layer.weight))
            bias = None if layer.bias is None else self.constant(layer.bias)
        if not self._quantizing or not layer.quantized:
            return weight, bias
        steps = weight_steps(weight, layer.axis, layer.dtype, scheme.rule)
        if bias is not None and layer.int32_bias:
            input_step = self._widest(path)[1].detach()
            steps = roomy(steps, bias, input_step)
            bias = fake_bias(bias, steps, input_step, scheme.rounding)
        weight = fake_weight(weight, steps, layer.axis, layer.dtype, scheme.rounding)
        if unit is not None and self.live:  # the batch norm comes after it
            rows = factor_rows(unit, self.state)
            return straight_through(self.state(unit.weight), (weight.detach().double() / rows).to(weight.dtype)), None
        return weight, bias

    # -- what it is on the device ----------------------------------------------------------------------------------

    def graph(self) -> FxGraph:
        """The legal graph (N = 1) with the parameters of now, batch norms absorbed as far as they can be."""
        prepared = self._shared.prepared
        data: dict[str, Array] = {}
        for value, source in prepared.sources.items():
            if isinstance(source, str):
                data[value] = _array(self.state(source))
        producers = prepared.graph.producers()
        for name, unit in prepared.units.items():
            with torch.no_grad():
                folded = fold(unit, self.state)
            for operand, tensor in zip(producers[name].inputs[1:3], folded, strict=True):
                if operand is not None:
                    data[operand.name] = _array(tensor)
        constants = {v.name for op in prepared.graph.ops() for v in op.operands if v.is_const}
        return prepared.graph.with_constants({name: array for name, array in data.items() if name in constants})

    def encodings(self, graph: FxGraph | None = None) -> Encodings:
        """The quantization parameters of now.

        Args:
            graph: what :meth:`graph` gives; made here when it is not at hand.

        Raises:
            PorterError: PT730 or PT732 when a scale is not known or not sound; PT407 when a weight is not finite.
        """
        if self._ready:
            self._settle()
        self._require_scales()
        graph = graph or self.graph()
        planned, _ = self._shared.preparer.plan(graph, self.rules, [])
        trained = _Trained(self._by_key(), self._shared.observer)
        return encode(graph, planned, Calibration({}), self._samples, [], cast(Adopted, trained))


class _Trained:
    """The encodings of the network's quantizers, for the encoder."""

    def __init__(self, quantizers: Mapping[Key, Quantizer], observer: str) -> None:
        self._quantizers = quantizers
        self._observer = observer

    def activation(self, group: Group, dtype: Dtype) -> Encoding:
        quantizer = self._quantizers[group.name, dtype]
        return quantizer.encoding("learned" if quantizer.learned else self._observer)

    def weight(self, site: Site, dtype: Dtype) -> Encoding | None:
        return None  # the extremes of now


def _array(tensor: Tensor) -> Array:
    kept = tensor.detach().cpu().to(torch.float32 if tensor.is_floating_point() else tensor.dtype)
    return np.array(kept.numpy())
