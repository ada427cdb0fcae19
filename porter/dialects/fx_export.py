# SPDX-License-Identifier: Apache-2.0
"""From a torch module to an exported program, with the user's own lines.

``torch.export`` traces; this module asks it for whole stack traces, and turns its failures into errors that name the
place in the user's code.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from porter.errors import PorterError
from porter.ops import Origin

__all__ = ["InputSpec", "example_inputs", "export", "match", "origin_of"]

#: Name (None: by position), shape, dtype as numpy names it (None: float32).
InputSpec = tuple[str | None, Sequence[int], str | None]

_HERE = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_STDLIB = sysconfig.get_paths()["stdlib"]
#: Frames of torch, the standard library and helpers, also by paths of another machine (files remember those).
_NOT_USERS = re.compile(
    r"^<|[/\\](site|dist)-packages[/\\](torch|functorch|einops)[/\\]"
    r"|[/\\]lib[/\\]python3\.\d+[/\\](?!site-packages|dist-packages)"
)
_NN = re.compile(r"[/\\]torch[/\\]nn[/\\]")


# ---------------------------------------------------------------------------------------------- where


def _users(file: str) -> bool:
    """Whether a frame lies in a model's own code: not in torch, the standard library, or porter."""
    if file.startswith((_TORCH, _HERE)) or _NOT_USERS.search(file):
        return False
    return not file.startswith(_STDLIB) or "-packages" in file


_lock = threading.Lock()


@contextlib.contextmanager
def _whole_traces() -> Iterator[None]:
    """Let the tracer keep every frame from the first ``forward`` on.

    torch 2.13 keeps only frames of functions named ``forward`` (torch/fx/proxy.py, _filter_traceback_frames), so that
    an op in a method that ``forward`` calls would get the line of the call.
    """
    from torch.fx.proxy import TracerBase

    def keep(self: Any, summary: traceback.StackSummary) -> traceback.StackSummary:
        first = next((i for i, frame in enumerate(summary) if frame.name == "forward"), len(summary))
        frames = [f for f in summary[first:] if _users(f.filename) or _NN.search(f.filename)]
        return traceback.StackSummary.from_list(frames)

    original = getattr(TracerBase, "_filter_traceback_frames", None)
    if original is None:
        yield
        return
    with _lock:
        TracerBase._filter_traceback_frames = keep  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            TracerBase._filter_traceback_frames = original  # type: ignore[method-assign]


_FRAME = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\S+))?')


def _module_path(stack: Mapping[str, Any] | None) -> str | None:
    """The dotted path of the innermost module: ``head.stems.0``; None at the top."""
    if not stack:
        return None
    path = str(list(stack.values())[-1][0])
    path = re.sub(r"\._modules\[['\"]?(\w+)['\"]?\]|\[['\"]?(\w+)['\"]?\]", r".\1\2", path)
    path = re.sub(r"^(L\.self|L__self__?|self)\.?", "", path).strip(".")
    return re.sub(r"@\d+$", "", path) or None


def origin_of(meta: Mapping[str, Any], name: str) -> Origin:
    """Where a node comes from: the innermost frame of the user's code, and the innermost module.

    A model made of torch's own modules alone has no such frame; the line in torch.nn stands in.
    """
    frames = _FRAME.findall(meta.get("stack_trace") or "")
    own = [f for f in frames if _users(f[0])] or [f for f in frames if _NN.search(f[0])]
    file, line, function = own[-1] if own else (None, None, None)
    return Origin(
        file, int(line) if line else None, function or None, _module_path(meta.get("nn_module_stack")), (name,)
    )


def _place(error: BaseException) -> str | None:
    """``file:line in function`` of the innermost frame of the user's code in an exception (or in its causes)."""
    seen: BaseException | None = error
    while seen is not None:
        frames = [f for f in traceback.extract_tb(seen.__traceback__) if _users(f.filename)]
        if frames:
            return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}"
        seen = seen.__cause__ or seen.__context__
    found = [f for f in _FRAME.findall(str(error)) if _users(f[0])]
    return f"{found[-1][0]}:{found[-1][1]}" if found else None


# ---------------------------------------------------------------------------------------------- export


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _dtype(name: str | None, where: str) -> torch.dtype:
    found = getattr(torch, name or "float32", None)
    if not isinstance(found, torch.dtype):
        raise PorterError("PT506", f"{name!r} is not a dtype", where, "Use a name such as float32, int64 or uint8.")
    return found


def example_inputs(inputs: Sequence[Any]) -> list[tuple[str | None, torch.Tensor]]:
    """Names and example tensors (zeros) from specs ``(name, shape, dtype)``; tensors stand for themselves."""
    made: list[tuple[str | None, torch.Tensor]] = []
    for i, spec in enumerate(inputs):
        if isinstance(spec, torch.Tensor):
            made.append((None, spec))
            continue
        name, shape, dtype = spec
        made.append((name, torch.zeros(tuple(shape), dtype=_dtype(dtype, f"input {name or i}"))))
    return made


def match(
    parameters: Sequence[inspect.Parameter], given: Sequence[tuple[str | None, torch.Tensor]], model: str
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], list[str | None]]:
    """Arguments, keyword arguments, and the names that the caller gave to inputs, in the order of ``forward``.

    A name that ``forward`` has goes there; the others fill its parameters in order.
    """
    slots = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = {p.name for p in slots}
    chosen: dict[str, tuple[str | None, torch.Tensor]] = {name: (name, t) for name, t in given if name in names}
    rest = [(name, t) for name, t in given if name not in names]
    for slot in slots:
        if rest and slot.name not in chosen and slot.kind is not slot.KEYWORD_ONLY:
            chosen[slot.name] = rest.pop(0)
    missing = [p.name for p in slots if p.default is p.empty and p.name not in chosen]
    signature = f"{model}.forward({', '.join(map(str, parameters))})"
    if missing:
        raise PorterError(
            "PT506",
            f"the model needs an input {missing[0]!r}, and got {len(given)}",
            signature,
            f"Add --input {missing[0]}:<shape>.",
        )
    star = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if rest and not star:
        raise PorterError(
            "PT506",
            f"{len(given)} inputs were given, and the model takes {len(chosen)}",
            signature,
            f"Leave out {rest[0][0] or 'the last one'}.",
        )
    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    order: list[str | None] = []
    positional = True
    for slot in slots:
        if slot.name not in chosen:
            positional = False
            continue
        positional = positional and slot.kind is not slot.KEYWORD_ONLY
        name, tensor = chosen[slot.name]
        order.append(name)
        if positional:
            args.append(tensor)
        else:
            kwargs[slot.name] = tensor
    for name, tensor in rest:
        order.append(name)
        args.append(tensor)
    return args, kwargs, order


@contextlib.contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and as it was before afterwards."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m in training:
            m.training = True


def _fails_eagerly(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception | None:
    try:
        module(*args, **kwargs)
    except Exception as error:
        return error
    return None


_ADVICE = (
    (
        re.compile(r"data.dependent|GuardOnDataDependent|unbacked|u\d+ ", re.I),
        "A branch, a size or a Python number depends on the values of a tensor. Compute it with torch.where or with "
        "masks, or move that part (non-maximum suppression, filtering by score) out of forward.",
    ),
    (re.compile(r"dynamic|symbolic|specializ", re.I), "Give every input a fixed shape with --input name:shape."),
)


def export(module: nn.Module, inputs: Sequence[Any]) -> tuple[ExportedProgram, list[str | None]]:
    """Export in evaluation mode, in-place writes made functional, composite operators kept whole.

    Returns the program and the name that the caller gave to each input.

    Raises:
        PorterError: PT506 where the model itself does not run on such inputs; PT310 where it runs but cannot be
            captured.
    """
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    away = next((t.device for t in (*module.parameters(), *module.buffers()) if t.device.type != "cpu"), None)
    if away is not None:
        raise PorterError("PT310", f"the model's weights are on {away}", fix="Move it first: model.cpu().")
    parameters = list(inspect.signature(module.forward).parameters.values())
    args, kwargs, names = match(parameters, example_inputs(inputs), type(module).__name__)
    with _evaluation(module), _whole_traces(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first: Exception | None = None
        for strict in (False, True):
            try:
                program = torch.export.export(module, tuple(args), kwargs, strict=strict)
                return program, names
            except Exception as error:
                first = first or error
                eager = None if strict else _fails_eagerly(module, args, kwargs)
                if eager is not None:
                    raise PorterError(
                        "PT506",
                        f"the model does not run on these inputs: {_first_line(eager)}",
                        _place(eager),
                        "Check the shape and dtype of each --input against what forward expects.",
                    ) from error
    assert first is not None
    advice = next(
        (fix for pattern, fix in _ADVICE if pattern.search(f"{type(first).__name__} {first}")),
        "Rewrite that line with tensor operations; `porter explain PT310` lists what cannot be captured.",
    )
    raise PorterError("PT310", f"the model cannot be captured: {_first_line(first)}", _place(first), advice) from first
