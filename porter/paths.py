# SPDX-License-Identifier: Apache-2.0
"""The module path of every op with weights: one answer for state dicts, generated modules and encodings."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from itertools import takewhile

from porter.graph import Graph
from porter.ops import Op

__all__ = ["PARAMETERS", "RESERVED", "module_paths", "valid_path"]

#: The kinds that become modules: for each, the operand index of every tensor and its key in a state dict.
#: The first one listed must be a constant for the op to be a module at all.
PARAMETERS: dict[str, tuple[tuple[int, str], ...]] = {
    **{f"{kind}{rank}d": ((1, "weight"), (2, "bias")) for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)},
    "linear": ((1, "weight"), (2, "bias")),
    "batch_norm": ((3, "running_mean"), (4, "running_var"), (1, "weight"), (2, "bias")),
    "instance_norm": ((1, "weight"), (2, "bias")),
    "layer_norm": ((1, "weight"), (2, "bias")),
    "group_norm": ((1, "weight"), (2, "bias")),
    "prelu": ((1, "weight"),),
    "embedding": ((0, "weight"),),
}

#: Names that a child of a ``torch.nn.Module`` cannot have, because the class uses them (torch 1.3 and later).
RESERVED = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule
    half ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters
    parameters register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to
    to_empty train training type xpu zero_grad
    """.split()  # noqa: SIM905 a word list
)

_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def valid_path(path: str) -> bool:
    """Whether every component of a dotted path can name a child of a ``torch.nn.Module``."""
    return all(_COMPONENT.fullmatch(c) and c not in RESERVED for c in path.split("."))


def module_paths(graph: Graph) -> dict[str, str]:
    """The dotted module path of every op with constant weights, by the name of its first output.

    The path is the weight's own name without its last component (``backbone.stem.conv.weight`` gives
    ``backbone.stem.conv``). Where the weight has no such name (a rewrite made it, or an exporter called it
    ``onnx::Conv_512``), it is the module that the op comes from, or else the op's name. Ops of the same kind
    and attributes that read the very same weights share a path; apart from that a path is never shared, and
    no path lies inside another.
    """
    ops = [op for op in graph.ops() if _is_module(op)]
    paths: dict[str, str] = {}
    owner: dict[str, tuple[object, ...]] = {}
    inside: set[str] = set()  # every proper prefix of a path taken

    def take(op: Op, path: str) -> bool:
        key = _identity(op)
        if owner.get(path, key) != key or path in inside or any(p in owner for p in _prefixes(path)):
            return False
        owner[path] = key
        inside.update(_prefixes(path))
        paths[op.outputs[0].name] = path
        return True

    known: dict[tuple[object, ...], str] = {}
    waiting: list[Op] = []
    for op in ops:  # names that a checkpoint uses come first: nothing derived may displace them
        path = _from_weight(op)
        if path is not None and take(op, path):
            known[_identity(op)] = path
        else:
            waiting.append(op)
    for op in waiting:
        key = _identity(op)
        if key in known:
            paths[op.outputs[0].name] = known[key]
            continue
        known[key] = next(path for path in _derived(op, owner) if take(op, path))
    return paths


def _is_module(op: Op) -> bool:
    spec = PARAMETERS.get(op.kind)
    if spec is None or len(op.inputs) <= spec[0][0]:
        return False
    leading = op.inputs[spec[0][0]]
    present = [op.inputs[i] for i, _ in spec if i < len(op.inputs)]
    return leading is not None and leading.is_const and all(v is None or v.is_const for v in present)


def _identity(op: Op) -> tuple[object, ...]:
    """Equal for two ops that can be one module: same kind, attributes and weights."""
    names = []
    for index, _ in PARAMETERS[op.kind]:
        value = op.inputs[index] if index < len(op.inputs) else None
        names.append(None if value is None else value.name)
    return (op.kind, repr(sorted(op.attrs.items())), *names)


def _from_weight(op: Op) -> str | None:
    """The path that the names of the op's own tensors spell, or None."""
    for index, key in PARAMETERS[op.kind]:
        value = op.inputs[index] if index < len(op.inputs) else None
        if value is not None and value.name.endswith("." + key):
            path = value.name[: -len(key) - 1]
            if valid_path(path):
                return path
    return None


def _derived(op: Op, owned: Container[str]) -> Iterator[str]:
    """Names for an op whose weights have none, best first, without end; none lies in a path that is owned."""
    bases = [_clean(op.origin.module or "")]
    if "/" in op.name:  # torch.onnx.export names nodes "/backbone/stem/conv/Conv"
        bases.append(_clean(op.name.strip("/").rpartition("/")[0].replace("/", ".")))
    bases = [base for base in bases if base]
    yield from bases
    if not bases and op.name:
        yield _clean(op.name.replace("/", ".")) or op.kind
    around = [*_prefixes(bases[0]), bases[0]] if bases else []
    free = list(takewhile(lambda path: path not in owned, around))
    stem = f"{free[-1]}." if free else ""
    yield stem + op.kind
    number = 2
    while True:
        yield f"{stem}{op.kind}_{number}"
        number += 1


def _clean(path: str) -> str:
    """A path that a module can have: odd characters replaced, reserved names underscored, no empty part."""
    parts = [re.sub(r"[^A-Za-z0-9_-]", "_", part).lstrip("-") for part in path.split(".")]
    return ".".join(part + "_" if part in RESERVED else part for part in parts if part)


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]
