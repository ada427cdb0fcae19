# SPDX-License-Identifier: Apache-2.0
"""A target: a device as data, and the judgement whether it runs one op.

A target is a TOML file. ``Target.load("mlu270")`` reads one that comes with porter (or with an installed package, by
the entry-point group ``porter.targets``); ``Target.load("my.toml")`` reads any other. Its tables:

``[target]``
    ``name title vendor description extends inherited_certainty closed certainty source``. ``extends`` names the target
    (or the file) that this one starts from, and ``inherited_certainty`` the most that is certain of what it takes over;
    ``closed = true`` says that an op the file does not name is not supported (otherwise it is unknown). ``certainty``
    and ``source`` are what the rest of the file takes where it gives none.
``[runtime] [model] [quantization] [tolerance] [performance] [artifact]``
    the fields of :class:`Runtime`, :class:`ModelLimits`, :class:`Quantization`, :class:`Tolerance`,
    :class:`Performance`, :class:`Artifact`. In each, ``about.KEY = { certainty, source, note }`` says how sure one
    value is.
``[sources.ID]``
    ``cite`` (how a reason names it), ``url``, ``about``. A ``source`` elsewhere is ``"ID"``, ``"ID:place"`` or a list.
``[limits.ID]``
    a limit that several ops use by its id. Without a source it has that of the op. With ``every = true`` each op of
    the file has it that runs on the accelerator.
``[ops.KIND]`` and ``[[group]]`` (with ``kinds = [...]``)
    the fields of :class:`OpSupport`. A kind is named once. What a file says of a kind replaces whole what the target
    that it extends says.

Every mistake in a file is reported with its line and key, and the nearest name where one is misspelt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from porter.limits import Expression, parse
from porter.op_facts import fact_names
from porter.ops import Op, Value

__all__ = [
    "About",
    "Artifact",
    "Certainty",
    "Device",
    "FirstConv",
    "Judgement",
    "Limit",
    "ModelLimits",
    "OpSupport",
    "Performance",
    "Quantization",
    "Reason",
    "Runtime",
    "Section",
    "Source",
    "Target",
    "Tolerance",
    "Verdict",
]

#: How sure a fact is: the vendor's own source or manual says so; a compiler was seen to do so (the source names its
#: version); one step away from either; nobody has said.
Certainty = Literal["certain", "measured", "likely", "unknown"]
Verdict = Literal["native", "host", "unsupported", "unknown"]
Device = Literal["accelerator", "host", "none"]
Fallback = Literal["host", "none"]
Scheme = Literal["symmetric", "asymmetric"]
Flow = Literal["operands", "tensors"]
BiasDtype = Literal["float32", "int32"]
Granularity = Literal["tensor", "channel"]
Pass = Literal["equalize", "adaround", "bias_correction"]


# -- what a target says ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class About:
    """How sure one value of a section is, and who says so."""

    certainty: Certainty = "certain"
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A document that facts come from. ``cite`` is how a reason names it."""

    cite: str
    url: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What every section has: for each key, its certainty and source (see :meth:`fact`)."""

    about: Mapping[str, About] = field(default_factory=dict, kw_only=True)

    def fact(self, key: str) -> About:
        """How sure the value of ``key`` is, and who says so."""
        return self.about[key]


@dataclass(frozen=True, slots=True)
class Runtime(Section):
    """What runs the model on the device.

    ``layout`` is the device's own order of the axes; ``dtypes`` those that a tensor on the device can have;
    ``max_rank``/``min_rank`` bound the rank of every tensor that an op computes with (constants aside); ``opset`` is
    the lowest and highest ONNX opset. ``fallback`` is what becomes of an accelerator's op that breaks a limit: with
    ``"host"`` the toolchain puts it on the host, with ``"none"`` it refuses the model. ``opted_in`` are the kinds with
    an ``opt_in`` that the user does put on the accelerator: a file of one's own that extends the target names them.
    """

    framework: str
    dtypes: tuple[str, ...]
    version: str = ""
    python: tuple[str, ...] = ()
    layout: str = "NCHW"
    max_rank: int | None = None
    min_rank: int = 0
    static_shapes: bool = True
    index_dtype: str = "int64"
    opset: tuple[int, ...] = ()
    fallback: Fallback = "none"
    opted_in: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelLimits(Section):
    """What the model as a whole must be.

    ``max_inputs`` and ``max_outputs`` bound their number; ``input_ranks`` are the ranks that an input can have (empty:
    any), ``max_batch`` the highest extent of its axis 0.
    """

    max_inputs: int | None = None
    max_outputs: int | None = None
    input_ranks: tuple[int, ...] = ()
    max_batch: int | None = None


@dataclass(frozen=True, slots=True)
class FirstConv:
    """What a convolution must be to take 8-bit image data and do the mean and standard deviation itself."""

    in_channels: tuple[int, ...]
    max_out_channels: int
    min_out_width: int
    dilation: bool
    input_dtype: str


@dataclass(frozen=True, slots=True)
class Quantization(Section):
    """The numerics of quantization: ``q = clamp(round(x / step) + zero_point, qmin, qmax)``.

    ``scheme`` is ``"symmetric"`` or ``"asymmetric"``, of activations; ``weight_scheme`` of weights. ``scale`` is the
    formula of the stored scale of a symmetric tensor: ``"qmax/absmax"`` (a multiplier: the step is its inverse),
    ``"absmax/qmax"`` (the step), ``"absmax/-qmin"`` (the step, one part in 128 of a threshold), ``"power_of_two"`` (the
    step is 2**position); an asymmetric step is ``(max - min) / (qmax - qmin)`` of a range widened to hold 0.
    ``zero_absmax_scale`` is the stored scale of a tensor of zeros. ``rounding`` is ``"half_even"``, ``"half_away"`` or
    ``"half_up"``.

    ``flow`` says what is an integer: with ``"operands"`` only the operands of ``quantized_ops`` are, and their results
    are floats; with ``"tensors"`` every tensor between them is, and results are requantized. ``widths`` are the widths
    to choose from: for each name the dtype of weights and of activations (default: every signed dtype of ``qmax`` for
    both). ``quantized_ops`` must be quantized to run in integers, except for the convolutions for which ``float_when``
    holds (an expression over their facts); everything else computes in float. In the flow of tensors, ``passive_ops``
    are computed in integers without a scale of their own: operands and result share one. ``fused_followers`` are
    computed inside the convolution or matrix product before them, without a requantization in between.
    ``table_ops`` are computed by looking up a table.

    ``per_channel_axis`` is the axis of the weight (None: one scale a weight); ``weight_granularity`` what is chosen
    where the user does not say; ``per_tensor_ops`` must not be quantized per channel. With
    ``depthwise_input_per_channel`` the input of a depthwise convolution, of which each channel meets only its own
    weights, may have one scale a channel. ``modes`` are the device's own
    numbers for the ways to quantize. ``bias`` is ``"float32"`` or ``"int32"`` (of step input step * weight step).
    ``observer`` finds the ranges of activations where the user does not say, and ``passes`` change weights and biases
    of 8 bits (``equalize``, ``adaround``, ``bias_correction``; what harms is taken back). ``calibration`` are the ways
    that the device's toolchain has to find ranges.
    ``output_dtypes`` are those that the result of a convolution or matrix product can have: with ``"int32"`` or
    ``"float32"`` among them, one that no integer op reads is not requantized. With a float among them the device
    changes between integers and floats as it goes: in the flow of tensors, an op other than these is computed in
    integers only between integer ops, one that gives its operands and one that reads its result.
    """

    scheme: Scheme
    qmax: Mapping[str, int]
    qmin: Mapping[str, int]
    scale: str
    rounding: str
    quantized_ops: tuple[str, ...]
    zero_absmax_scale: float = 1.0
    float_when: str | None = None
    per_channel_axis: int | None = None
    per_tensor_ops: tuple[str, ...] = ()
    modes: Mapping[str, int] = field(default_factory=dict)
    accumulator: str = "int32"
    output_dtypes: tuple[str, ...] = ("float32",)
    calibration: tuple[str, ...] = ("minmax",)
    first_conv: FirstConv | None = None
    weight_scheme: Scheme = "symmetric"
    flow: Flow = "operands"
    widths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    passive_ops: tuple[str, ...] = ()
    fused_followers: tuple[str, ...] = ()
    table_ops: tuple[str, ...] = ()
    bias: BiasDtype = "float32"
    weight_granularity: Granularity = "tensor"
    depthwise_input_per_channel: bool = False
    observer: str = "min_max"
    passes: tuple[Pass, ...] = ()

    @property
    def symmetric(self) -> bool:
        """Whether activations have no zero point."""
        return self.scheme == "symmetric"

    def quantizes(self, op: Op) -> bool:
        """Whether the device computes ``op`` in integers (it must then be quantized)."""
        if op.kind not in self.quantized_ops:
            return False
        if self.float_when is None or not op.kind.startswith("conv"):
            return True
        names = fact_names(op.kind)
        return parse(self.float_when, names).holds(lambda name: names[name](op))[0] is not True


@dataclass(frozen=True, slots=True)
class Tolerance(Section):
    """How far the device may be from the CPU: the relative error of one op, and of one op of a kind in ``ops``."""

    op_relative: float = 0.0
    ops: Mapping[str, float] = field(default_factory=dict)

    def of(self, kind: str) -> float:
        """The relative error that one op of ``kind`` may have."""
        return self.ops.get(kind, self.op_relative)


@dataclass(frozen=True, slots=True)
class Performance(Section):
    """Rates for a latency estimate, in 1e12 operations a second by dtype: nominal, and measured. ``bandwidth_gbs`` is
    that of the device's memory, in 1e9 bytes a second (0: not known). ``channel_multiple`` is the number of channels
    that a layer had better be a multiple of (1: not known).
    """

    tops: Mapping[str, float] = field(default_factory=dict)
    measured_tops: Mapping[str, float] = field(default_factory=dict)
    bandwidth_gbs: float = 0.0
    channel_multiple: int = 1
    cores: int | None = None
    wram_kib_per_core: int | None = None
    nram_kib_per_core: int | None = None


@dataclass(frozen=True, slots=True)
class Artifact(Section):
    """What is made for the device. ``kind`` picks the emitter.

    ``cores`` are the core counts to compile for; ``core_version`` the device's name to its compiler; ``input_formats``
    the channel orders of an image input by their number; ``suffixes`` of the files that the device's tools write.
    """

    kind: str
    core_version: str = ""
    cores: tuple[int, ...] = ()
    default_cores: int | None = None
    input_formats: Mapping[str, int] = field(default_factory=dict)
    suffixes: tuple[str, ...] = ()
    output_dtypes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. It counts only where ``when`` holds; ``why`` says what breaks, as a clause."""

    expr: Expression
    why: str
    certainty: Certainty
    source: str
    when: Expression | None = None


@dataclass(frozen=True, slots=True)
class OpSupport:
    """What a target says of one op kind.

    ``names`` are the vendor's own names, where they differ from the kind's. ``device`` is where it runs by default:
    ``"accelerator"``, ``"host"``, or ``"none"``. ``opt_in`` says how to put on the accelerator what runs on the host by
    default; dtypes, constants and limits then say when that is possible. ``fallback`` is the runtime's where it is
    None. ``dtypes`` are those of every operand and result (default: ``runtime.dtypes``), ``operand_dtypes`` those of an
    operand by its name, ``output_dtypes`` one list for each result. ``const_inputs`` must be constants. On the host an
    op has ``host_dtypes`` (default: any) and ``host_limits``. Where ``certainty`` is ``"unknown"`` the verdict is
    ``unknown``. ``quantized`` are the dtypes of activations with which the kind has an integer form, where it has fewer
    than the target's widths.
    """

    kind: str
    names: tuple[str, ...] = ()
    device: Device = "accelerator"
    dtypes: tuple[str, ...] = ()
    operand_dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    output_dtypes: tuple[tuple[str, ...], ...] = ()
    const_inputs: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    certainty: Certainty = "certain"
    source: str = ""
    note: str = ""
    quantized: tuple[str, ...] = ()
    opt_in: str = ""
    fallback: Fallback | None = None
    host_dtypes: tuple[str, ...] = ()
    host_limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an op is not native: a stable ``code``, the text, how sure that is, and who says so."""

    code: str
    text: str
    certainty: Certainty
    source: str

    def __str__(self) -> str:
        return f"{self.text} [{', '.join(filter(None, (self.source, self.certainty)))}]"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one op with *every* reason, and what the target says of its kind (None where it says nothing)."""

    verdict: Verdict
    reasons: tuple[Reason, ...] = ()
    support: OpSupport | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A device. See the module's text for the file, and :meth:`judge` for what it is for."""

    name: str
    title: str
    vendor: str
    description: str
    path: Path
    extends: str | None
    closed: bool
    certainty: Certainty
    source: str
    runtime: Runtime
    model: ModelLimits
    quantization: Quantization | None
    tolerance: Tolerance
    performance: Performance
    artifact: Artifact | None
    sources: Mapping[str, Source]
    ops: Mapping[str, OpSupport]

    @staticmethod
    def names() -> list[str]:
        """The names of the installed targets: porter's own, and those of other packages."""
        from porter.target_file import installed

        return installed()

    @classmethod
    def load(cls, target: str | Path) -> Target:
        """A target by its name, or from a TOML file by its path.

        Raises:
            PorterError: PT508 when there is no target of that name (it names the nearest), PT501 when there is no such
                file, PT509 when the file has a mistake (with line and key).
        """
        from porter.target_file import read

        return read(str(target))

    def judge(self, op: Op) -> Judgement:
        """Whether the target runs ``op``, with every reason why it does not.

        ``identity`` is native everywhere: it computes nothing. A ``dynamic_*`` kind that the file does not name takes
        at run time what the target wants to know before; it is unsupported where shapes must be static.
        """
        from porter.judging import judge

        return judge(self, op)

    def judge_model(self, inputs: Sequence[Value], outputs: Sequence[Value], opset: int | None = None) -> list[Reason]:
        """Why the target does not take the model as a whole: its opset, its number of inputs and outputs, their shapes.

        ``opset`` is the model's ONNX opset, None where it is no ONNX model.
        """
        from porter.judging import judge_model

        return judge_model(self, inputs, outputs, opset)
