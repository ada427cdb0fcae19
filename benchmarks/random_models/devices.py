# SPDX-License-Identifier: Apache-2.0
"""The targets that models are rewritten for: those of targets/, and restricted ones that make more rules fire.

A restricted target runs every kind of the vocabulary but some, within a few limits; its name says which:
``without:silu,conv1d;rank4,dense``. It is no device: it is what a device could be that has little.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace

from porter.limits import parse
from porter.op_facts import fact_names
from porter.ops import KINDS
from porter.registry import rules
from porter.target import Limit, OpSupport, Target

__all__ = ["LIMITS", "aimed", "restricted", "target"]

_CONV = "conv1d conv2d conv3d"
_POOL = "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d"
_SUMS = "sum mean prod amax amin logsumexp var std norm all any"
#: Of each limit the kinds that have it, and the expression that must hold.
LIMITS: dict[str, tuple[str, str]] = {
    "kernel3": (_CONV, "max(kernel_h, kernel_w, kernel_d) <= 3"),
    "kernel7": (_CONV, "max(kernel_h, kernel_w, kernel_d) <= 7"),
    "dense": (_CONV + " conv_transpose1d conv_transpose2d conv_transpose3d", "groups == 1"),
    "multiplier1": (_CONV, "not depthwise or out_channels == in_channels"),
    "undilated": (_CONV, "max(dilation_h, dilation_w, dilation_d) == 1"),
    "unpadded": (_CONV + " " + _POOL, "max(pad_top, pad_bottom, pad_left, pad_right, pad_front, pad_back) == 0"),
    "even": (_CONV + " " + _POOL, "pad_top == pad_bottom and pad_left == pad_right and pad_front == pad_back"),
    "stride1": (_CONV, "max(stride_h, stride_w, stride_d) == 1"),
    "pool3": (_POOL, "max(kernel_h, kernel_w, kernel_d) <= 3"),
    "floor": (_POOL, "not ceil_mode"),
    "plain_average": ("avg_pool2d avg_pool3d", "divisor_override == None"),
    "one_cell": ("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d", "prod(output_size) == 1"),
    "last_axis": ("softmax log_softmax", "axis == rank - 1"),
    "one_axis": (_SUMS, "len(axes) == 1"),
    "keepdim": (_SUMS + " argmax argmin max_dim min_dim", "keepdim"),
    "step1": ("slice", "min(steps) == 1 and max(steps) == 1"),
    "forwards": ("slice", "min(steps) >= 1"),
    "slice1": ("slice", "len(axes) == 1"),
    "assign1": ("slice_assign", "max(steps) == 1 and min(steps) == 1"),
    "one_way": ("lstm gru rnn", "direction == 'forward'"),
    "torch_layout": ("lstm gru rnn", "layout == 'time_first'"),
    "one_layer": ("lstm gru rnn", "layers == 1"),
    "matrices": ("linear", "rank == 2"),
    "matrix_stacks": ("matmul", "rank == 3 and in1_rank == 3"),
    "no_vectors": ("matmul", "rank >= 2 and in1_rank >= 2"),
    "no_crop": ("pad", "min(pad_begin) >= 0 and min(pad_end) >= 0"),
    "zeros_only": ("pad", "mode == 'constant'"),
    "permute4": ("permute", "rank <= 4"),
    "nearest": ("resize", "mode == 'nearest'"),
    "not_broadcast": ("add sub mul div", "not broadcast"),
}
#: Limits of every tensor.
_WIDE = ("rank4", "matrix", "int32", "floats", "no_bool")
_FLOATS = ("float16", "float32")
#: Kinds that make nothing illegal by their absence.
_KEPT = {"identity", "if", "loop", "scan", "random"}


def target(name: str) -> Target:
    """A target of targets/, or a restricted one by its name."""
    return restricted(name) if name.startswith("without:") else Target.load(name)


def restricted(name: str) -> Target:
    """The target that a name ``without:KIND,...;LIMIT,...`` describes. Raises ``KeyError`` for an unknown limit."""
    missing, _, limits = name.removeprefix("without:").partition(";")
    base = Target.load("onnxruntime")
    ops = {kind: OpSupport(kind) for kind in KINDS if kind not in missing.split(",")}
    runtime = replace(base.runtime, opset=(), dtypes=(*base.runtime.dtypes, "bfloat16"))
    for limit in filter(None, limits.split(",")):
        if limit == "rank4":
            runtime = replace(runtime, max_rank=4)
        elif limit == "matrix":
            runtime = replace(runtime, min_rank=2)
        elif limit == "int32":
            runtime = replace(runtime, dtypes=(*_FLOATS, "int32", "bool"))
        elif limit == "floats":
            runtime = replace(runtime, dtypes=(*_FLOATS, "bool"))
        elif limit == "no_bool":
            runtime = replace(runtime, dtypes=(*_FLOATS, "int32", "int64"))
        else:
            kinds, text = LIMITS[limit]
            for kind in kinds.split():
                if kind in ops:
                    made = Limit(parse(text, fact_names(kind)), limit, "certain", "")
                    ops[kind] = replace(ops[kind], limits=(*ops[kind].limits, made))
    return replace(base, name=name, closed=True, runtime=runtime, ops=ops, quantization=None)


def aimed(kinds: Collection[str], rng: random.Random) -> str:
    """The name of a restricted target for a model of these kinds: one at which a rule drawn from those for the kinds is
    likely to fire, with little else that it could be rewritten to."""
    here = sorted(set(kinds) & KINDS.keys() - _KEPT)
    found = [rule for rule in rules().values() if set(here) & {*rule.removes, *rule.fuses}]
    missing: set[str] = set()
    wide: list[str] = []
    if found and rng.random() < 0.8:
        rule = rng.choice(found)
        reach = sorted({*rule.removes, *(rule.fuses if len(rule.fuses) < 20 else ())} & {*here})
        if reach:
            missing |= {*rng.sample(reach, rng.randint(1, len(reach)))}
        else:  # it takes in whole regions, for what all tensors must be
            wide.append(rng.choice(("rank4", "int32", "floats")))
        share = rng.choice((0.0, 0.3, 0.6))
        missing |= {kind for kind in KINDS if kind not in _KEPT and kind not in rule.yields and rng.random() < share}
    else:
        share = rng.choice((0.1, 0.3))
        missing |= {kind for kind in KINDS if kind not in _KEPT and rng.random() < share}
        missing |= {kind for kind in here if rng.random() < 0.4}
    mine = [name for name, (of, _) in LIMITS.items() if {*of.split()} & {*here} - missing]
    limits = [name for name in mine if rng.random() < 0.3]
    if not wide and rng.random() < 0.35:
        wide.append(rng.choice(_WIDE))
    return f"without:{','.join(kind for kind in KINDS if kind in missing)};{','.join([*limits, *wide])}"
