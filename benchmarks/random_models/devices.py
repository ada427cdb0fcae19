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
    "kernel31": (_CONV, "max(kernel_h, kernel_w, kernel_d) <= 31"),
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
#: Parts of the names of rules, and the limit that makes such a rule of use.
_LIMIT_OF = {
    "rank4": "rank4", "vector_to_matrix": "matrix", "int64_arithmetic": "int32", "integer_arithmetic": "floats",
    "cast_of_comparison": "no_bool", "logical_to": "no_bool", "cast_bool": "no_bool", "of_512": "channels512",
    "of_1024": "channels1024", "of_2048": "channels2048", "of_4096": "channels4096", "sum_of_31": "kernel31",
    "sum_of_7": "kernel7", "sum_of_3": "kernel3", "conv_dilation": "undilated", "asymmetric": "even",
    "padding_to": "unpadded", "conv_stride": "stride1", "conv_groups": "dense", "multiplier": "multiplier1",
    "pool_ceil": "floor", "smaller_kernels": "pool3", "to_stages": "pool3", "divisor": "plain_average",
    "one_axis_at_a_time": "one_axis", "adjacent_axes": "one_axis", "keepdim": "keepdim", "last_axis": "last_axis",
    "slice_step": "step1", "negative_to_flip": "forwards", "slice_one": "slice1", "strided": "assign1",
    "to_forward": "one_way", "time_first": "torch_layout", "single_layers": "one_layer", "linear_to_rank2": "matrices",
    "to_rank3": "matrix_stacks", "of_vector": "no_vectors", "pad_negative": "no_crop", "edges_to_cat": "zeros_only",
    "adaptive_pool_to_pool": "one_cell", "resize_": "nearest",
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


def aimed(kinds: Collection[str], how: str, rng: random.Random) -> str:
    """The name of a restricted target for a model of these kinds: one at which some rules, drawn from those for the
    kinds that ``how`` permits, are likely to fire, with little else that the model could be rewritten to."""
    here = set(kinds) & KINDS.keys() - _KEPT
    aim = _Aim(rng)
    found = [rule for rule in rules().values() if here & {*rule.removes, *rule.fuses} and _permitted(rule, how)]
    if found and rng.random() < 0.9:
        # Every model has an add or a reshape; what is rare, and what only this case permits, is aimed at first.
        weights = [
            (1.0 if here & {*rule.removes} - _COMMON else 0.3)
            * (8.0 if rule.claim in ("approximate", "retrain") else 1.0)
            for rule in found
        ]
        for rule in rng.choices(found, weights, k=rng.choice((1, 2, 4))):
            aim.at(rule, here)
        share = rng.choice((0.0, 0.0, 0.0, 0.3, 0.6))
        aim.lacks({kind for kind in KINDS if kind not in aim.wanted and rng.random() < share})
    else:
        share = rng.choice((0.1, 0.3))
        aim.lacks({kind for kind in KINDS if rng.random() < share})
        aim.lacks({kind for kind in sorted(here) if rng.random() < 0.4})
    mine = [name for name, (of, _) in LIMITS.items() if {*of.split()} & here - aim.missing]
    aim.limits += [name for name in mine if rng.random() < 0.1]
    if not {*aim.limits} & {*_WIDE} and rng.random() < 0.2:
        aim.limits.append(rng.choice(_WIDE))
    limits = ",".join(dict.fromkeys(aim.limits))
    return f"without:{','.join(kind for kind in KINDS if kind in aim.missing)};{limits}"


def _permitted(rule: Rule, how: str) -> bool:
    allowed = {"approximate": ("approximate",), "retrain": ("approximate", "retrain")}.get(how, ())
    return not rule.optional and (rule.claim in ("exact", "bounded") or rule.claim in allowed)


class _Aim:
    """What a target lacks, so that rules are of use; ``wanted`` is what these yield."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.missing: set[str] = set()
        self.limits: list[str] = []
        self.wanted: set[str] = set()

    def lacks(self, kinds: Collection[str]) -> None:
        self.missing |= {*kinds} - _KEPT - self.wanted

    def at(self, rule: Rule, here: Collection[str]) -> None:
        self.wanted |= {*rule.yields} if len(rule.yields) < 30 else set()
        limit = next((limit for words, limit in _LIMIT_OF.items() if words in rule.name), "")
        if limit:
            self.limits.append(limit)
            if limit in _WIDE or {*rule.removes} & {*rule.yields}:
                return
        reach = sorted({*rule.removes, *rule.fuses} & {*here} - {*rule.yields}) or sorted({*rule.removes} & {*here})
        self.missing |= {*self.rng.sample(reach, self.rng.randint(1, min(len(reach), 3)))} - _KEPT if reach else set()
        # What its rivals yield and it does not.
        for kind in sorted({*rule.removes} & {*here}):
            for rival in rules_for(kind):
                only = sorted({*rival.yields} - {*rule.yields, *here})
                if rival is not rule and only and self.rng.random() < 0.8:
                    self.lacks([self.rng.choice(only)])
