# SPDX-License-Identifier: Apache-2.0
"""The page of all rewrites (docs/rules.md): what a model may hold that a device lacks, and the rules for it.

It follows from the rules themselves: which kinds they remove, and which of them they put together again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

from porter.files import atomic_file
from porter.registry import rules
from porter.rewrite import CLAIMS, Rule

__all__ = ["TOPICS", "Topic", "page", "rules_of", "write_page"]

#: A rule for more kinds than this is about the form of any op, not about one of them.
_GENERAL = 20


@dataclass(frozen=True, slots=True)
class Topic:
    """What a model may hold, the kinds that say so, the rules that look at more than a kind, and what is done where it
    is no rule that does it."""

    title: str
    kinds: tuple[str, ...]
    names: tuple[str, ...] = ()
    otherwise: str = ""


def _topics() -> tuple[Topic, ...]:
    conv = "conv1d conv2d conv3d"
    functions = "expm1 log1p log2 log10 tan sinh cosh ceil round trunc asin acos atan asinh acosh atanh identity"
    logic = "logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not"
    arithmetic = "sub div pow floor_divide remainder fmod maximum minimum neg abs sign square rsqrt sqrt reciprocal"
    adaptive = "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d"
    table = {
        "layer norm": "layer_norm",
        "group norm, instance norm": "group_norm instance_norm",
        "RMS norm": "rms_norm",
        "L2 norm": "lp_normalize norm",
        "batch norm, local response norm": "batch_norm local_response_norm",
        "GELU, erf": "gelu erf",
        "ELU, CELU, SELU": "elu celu selu",
        "Mish": "mish",
        "Softplus, log-sigmoid": "softplus logsigmoid",
        "PReLU, leaky ReLU": "prelu leaky_relu",
        "hard swish, hard sigmoid": "hardswish hardsigmoid",
        "SiLU": "silu",
        "other activations": "relu relu6 clamp threshold sigmoid tanh softsign",
        "softmax, log-softmax, logsumexp": "softmax log_softmax logsumexp",
        "einsum": "einsum",
        "attention": "attention",
        "gather and index by constants": "take gather index index_select embedding one_hot",
        "assignment to slices and indices": "slice_assign select_assign index_put scatter scatter_nd",
        "argmax, argmin, max with indices": "argmax argmin max_dim min_dim",
        "topk, sort": "topk sort",
        "cumulative sum": "cumsum",
        "where, masks, triangles": "where masked_fill tril triu",
        "comparisons and logic": f"eq ne lt le gt ge isnan isinf {logic}",
        "padding (constant, reflecting, replicating, circular, negative)": "pad",
        "roll, flip": "roll flip",
        "pixel shuffle and unshuffle, space to depth, channel shuffle": "pixel_shuffle pixel_unshuffle channel_shuffle",
        "resize (nearest, linear, cubic; align_corners, half_pixel; antialias)": "resize",
        "grid sample, affine grid": "grid_sample affine_grid",
        "max pooling (large kernels, ceil mode, indices)": "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices",
        "average pooling": "avg_pool1d avg_pool2d avg_pool3d",
        "adaptive and global pooling": adaptive,
        "convolution (large, dilated, strided, asymmetric, grouped, depthwise, 1-D, 3-D, many channels)": conv,
        "transposed convolution": "conv_transpose1d conv_transpose2d conv_transpose3d",
        "unfold (im2col)": "unfold",
        "linear, gemm, matmul to and from a 1x1 convolution": "linear gemm matmul",
        "reshape, flatten, squeeze, unsqueeze": "reshape flatten squeeze unsqueeze",
        "permute": "permute",
        "slice, select, split, chunk, unbind": "slice select split chunk unbind",
        "concatenate, stack": "cat stack",
        "expand, repeat, meshgrid": "expand repeat meshgrid",
        "reductions": "sum mean prod amax amin all any var std",
        "arithmetic": arithmetic,
        "other functions": functions,
        "casts": "cast",
        "LSTM, GRU, RNN": "lstm gru rnn",
    }  # fmt: skip
    made = [Topic(title, tuple(kinds.split())) for title, kinds in table.items()]
    made += [
        Topic("integers of 64 bits", (), ("int64_arithmetic_to_int32", "integer_arithmetic_to_float")),
        Topic("tensors of five and more axes", (), ("region_to_rank4", "region_with_sums_to_rank4", "permute_to_rank4",
              "elementwise_to_rank4", "one_axis_op_to_rank4", "reduction_to_rank4")),
        Topic("vectors, and scalars beside tensors", (), ("constant_to_full_rank", "elementwise_vector_to_matrix")),
        Topic("NMS, ROI align, whatever has a size that depends on data", (),
              otherwise="`porter rewrite --partition`, or `--cut`: the host computes it"),
        Topic("constants, and arithmetic on shapes", (), otherwise="computed ahead of time where the device would not; "
              "an open batch is fixed (`--batch N`) or stays open (`--open-batch`)"),
        Topic("another ONNX opset", (), otherwise="`--opset N`, and by itself where the target reads others"),
    ]  # fmt: skip
    return tuple(made)


TOPICS = _topics()


def rules_of(topic: Topic, known: Iterable[Rule] | None = None) -> tuple[list[Rule], list[Rule]]:
    """The rules that replace the topic's kinds by others, and those that put one of them together from its formula."""
    kinds = {*topic.kinds}
    apart: list[Rule] = []
    together: list[Rule] = []
    for rule in rules().values() if known is None else known:
        if max(len(rule.removes), len(rule.fuses)) >= _GENERAL or rule.name in topic.names:
            if rule.name in topic.names:
                apart.append(rule)
        elif kinds & ({*rule.yields} - {*rule.fuses}) and rule.fuses:
            together.append(rule)
        elif kinds & {*rule.removes} and not rule.fuses:
            apart.append(rule)
    return apart, together


def page(known: Sequence[Rule] | None = None) -> str:
    """The page as Markdown."""
    known = list(rules().values()) if known is None else known
    lines = [
        "# Rewrites",
        "",
        "Written by `porter rewrites --page`. Every rule is written once in porter's vocabulary, and works on ONNX",
        "models and on torch models alike; `porter rewrites NAME` is its manual page with formula, example, bound, and",
        "when it does not apply. A rule is used where its op is not legal on the target and what it yields is.",
        "",
        "| what a model may hold | rules that replace it | rules that put it together |",
        "|---|---|---|",
    ]
    for topic in TOPICS:
        apart, together = rules_of(topic, known)
        first = ", ".join(_link(rule) for rule in apart) or topic.otherwise
        lines.append(f"| {topic.title} | {first} | {', '.join(_link(rule) for rule in together)} |")
    lines += ["", "## The rules", ""]
    lines += [f"* `{claim}`: {meaning}" for claim, meaning in CLAIMS.items()]
    lines += ["", "| rule | claim | bound | what it does |", "|---|---|---|---|"]
    for rule in known:
        text = " ".join(cleandoc(rule.doc).partition("\n\n")[0].split())
        mark = " (`--apply`)" if rule.optional else ""
        lines.append(
            f'| <a id="{rule.name}"></a>`{rule.name}`{mark} | {rule.claim} | {_cell(rule.error)} | {_cell(text)} |'
        )
    return "\n".join(lines) + "\n"


def _link(rule: Rule) -> str:
    return f"[{rule.name}](#{rule.name})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write_page(path: Path) -> None:
    """Write :func:`page` of porter's own rules and of those that are installed.

    Raises:
        PorterError: PT510 to PT512 where it cannot be written.
    """
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(page(), encoding="utf-8")
