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
from porter.registry import rules, rules_for
from porter.rewrite import Rule
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
    "channels512": (_CONV + " linear", "in_channels <= 512 and out_channels <= 512"),
    "channels1024": (_CONV + " linear", "in_channels <= 1024 and out_channels <= 1024"),
    "channels2048": (_CONV + " linear", "in_channels <= 2048 and out_channels <= 2048"),
    "channels4096": (_CONV + " linear", "in_channels <= 4096 and out_channels <= 4096"),
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
#: Of rules that are for what all tensors must be: a part of their names, and the limit.
_WIDE_RULES = {
    "rank4": "rank4", "vector_to_matrix": "matrix", "int64_arithmetic": "int32", "integer_arithmetic": "floats",
    "cast_of_comparison": "no_bool", "logical_to": "no_bool", "cast_bool": "no_bool",
}  # fmt: skip
_COMMON = {
    "add", "sub", "mul", "div", "cast", "reshape", "permute", "slice", "cat", "matmul", "relu", "tanh", "abs", "pow",
    "conv2d", "unsqueeze", "where",
}  # fmt: skip
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
    here = set(kinds) & KINDS.keys() - _KEPT
    aim = _Aim(rng)
    found = [rule for rule in rules().values() if here & {*rule.removes, *rule.fuses}]
    if found and rng.random() < 0.85:
        # Every model has an add or a reshape; what is rare is aimed at first.
        weights = [1.0 if here & {*rule.removes} - _COMMON else 0.3 for rule in found]
        aim.at(rng.choices(found, weights)[0], here)
    else:
        share = rng.choice((0.1, 0.3))
        aim.lacks({kind for kind in KINDS if rng.random() < share})
        aim.lacks({kind for kind in sorted(here) if rng.random() < 0.4})
    mine = [name for name, (of, _) in LIMITS.items() if {*of.split()} & here - aim.missing]
    aim.limits += [name for name in mine if name not in aim.limits and rng.random() < 0.15]
    if not {*aim.limits} & {*_WIDE} and rng.random() < 0.25:
        aim.limits.append(rng.choice(_WIDE))
    return f"without:{','.join(kind for kind in KINDS if kind in aim.missing)};{','.join(aim.limits)}"


class _Aim:
    """What a target lacks, so that one rule is of use."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.missing: set[str] = set()
        self.limits: list[str] = []

    def lacks(self, kinds: Collection[str]) -> None:
        self.missing |= {*kinds} - _KEPT

    def at(self, rule: Rule, here: Collection[str]) -> None:
        wide = next((limit for words, limit in _WIDE_RULES.items() if words in rule.name), "")
        makes_its_own = {*rule.removes} & {*rule.yields}
        limits = [name for name, (of, _) in LIMITS.items() if {*of.split()} & {*rule.removes} & {*here}]
        if wide:
            self.limits.append(wide)
        elif makes_its_own and limits:
            self.limits += self.rng.sample(limits, min(len(limits), self.rng.choice((1, 1, 2))))
        else:
            reach = sorted({*rule.removes, *rule.fuses} & {*here} - {*rule.yields}) or sorted({*rule.removes} & {*here})
            self.lacks(self.rng.sample(reach, self.rng.randint(1, min(len(reach), 3))) if reach else ())
        # What its rivals yield and it does not.
        for kind in sorted({*rule.removes} & {*here}):
            for rival in rules_for(kind):
                only = sorted({*rival.yields} - {*rule.yields, *here})
                if rival is not rule and only and self.rng.random() < 0.7:
                    self.lacks([self.rng.choice(only)])
        share = self.rng.choice((0.0, 0.0, 0.3, 0.6))
        self.lacks({kind for kind in KINDS if kind not in rule.yields and self.rng.random() < share})
