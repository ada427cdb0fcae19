# SPDX-License-Identifier: Apache-2.0
"""Any model that a user may have → a :class:`~porter.graph.Graph`. Nothing that a file pickles is run by default."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from porter.errors import PorterError
from porter.graph import Graph
from porter.usercode import call_by_name, run_user_code

if TYPE_CHECKING:
    from porter.checkpoint import Checkpoint, Kind

__all__ = ["InputSpec", "load", "load_module", "parse_input", "parse_inputs", "parse_model_arg"]

#: One input: (name or None for "by position", shape, numpy dtype name or None for the model's own).
InputSpec = tuple[str | None, tuple[int, ...], str | None]

_INPUT = re.compile(r"(?:(?P<name>[^=]+?):)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<dtype>[a-z]+\d*))?")
_DTYPES = ("float32", "float16", "float64", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool")


def parse_input(text: str) -> InputSpec:
    """Read ``name:1x3x640x640[:dtype]`` (the name may be left out). Raises PorterError PT519."""
    found = _INPUT.fullmatch(text.strip())
    dtype = found["dtype"] if found else None
    if not found or (dtype and dtype not in _DTYPES):
        hint = f"{dtype} is not one of {', '.join(_DTYPES)}. " if dtype else ""
        raise PorterError(
            "PT519", f"{text!r} is not name:shape[:dtype]", "--input",
            f"{hint}Write for example --input images:1x3x640x640 or --input ids:1x128:int64.",
        )  # fmt: skip
    shape = () if found["shape"] == "scalar" else tuple(int(n) for n in found["shape"].split("x"))
    if 0 in shape:
        raise PorterError("PT519", f"{text!r} has an extent of 0", "--input", "Give every axis at least 1.")
    return found["name"], shape, dtype


def parse_inputs(inputs: Any) -> list[InputSpec]:
    """Inputs as the API takes them: strings as for ``--input``, {name: shape or (shape, dtype) or array}, or a
    sequence of arrays, tensors or shapes in the order of the model's inputs."""
    if inputs is None:
        return []
    if isinstance(inputs, str):
        return [parse_input(inputs)]
    if isinstance(inputs, Mapping):
        return [_input(str(name), value) for name, value in inputs.items()]
    if hasattr(inputs, "shape") or (inputs and all(isinstance(n, int) for n in inputs)):
        inputs = [inputs]
    return [parse_input(v) if isinstance(v, str) else _input(None, v) for v in inputs]


def _input(name: str | None, value: Any) -> InputSpec:
    if isinstance(value, str):
        _, shape, dtype = parse_input(value)
        return name, shape, dtype
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return name, tuple(int(n) for n in value.shape), str(value.dtype).removeprefix("torch.")
    if len(value) == 2 and not isinstance(value[0], int) and isinstance(value[1], (str, np.dtype, type)):
        return name, tuple(int(n) for n in value[0]), np.dtype(value[1]).name
    if not all(isinstance(n, int) for n in value):
        raise PorterError("PT519", f"{value!r} is not a shape, an array, or (shape, dtype)", "inputs")
    return name, tuple(value), None


def parse_model_arg(text: str) -> tuple[str, Any]:
    """Read ``key=value``; the value is JSON where it is valid JSON, else a string. Raises PorterError PT519."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise PorterError("PT519", f"{text!r} is not key=value", "--model-arg", "Write for example num_classes=5.")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def load(
    model: Any = None,
    inputs: Any = None,
    *,
    factory: str | Callable[..., Any] | None = None,
    factory_args: Mapping[str, Any] | None = None,
    run_pickled_code: bool = False,
    batch: int | None = None,
) -> Graph:
    """Capture a model as a graph with static shapes.

    Args:
        model: a path (.onnx, .pt2, TorchScript, a checkpoint with ``factory``, a pickled module), an ``nn.Module``, an
            ``onnx.ModelProto``, or a Graph (returned as it is). None with ``factory``: the factory's own weights.
        inputs: shapes, as :func:`parse_inputs` takes them. Needed for torch modules, and for dynamic axes.
        factory: ``package.module:function`` or ``path/to/file.py:function`` that returns the ``nn.Module`` whose
        weights a
            checkpoint holds, or the function itself. It is imported and called: it is the user's own code.
        factory_args: keyword arguments for it.
        run_pickled_code: unpickle a whole module, which runs whatever code the file names.
        batch: of an ONNX model, the extent of the first axis of every input that leaves it open.

    Raises:
        PorterError: PT501 to PT507, PT513 to PT515, PT518: the file, what is wrong with it, and what to do. PT519 for a
            batch that is no size, or of a model that is not ONNX.
    """
    if isinstance(model, Graph):
        return model
    if batch is not None and batch < 1:
        raise PorterError("PT519", f"the batch is {batch}", "--batch", "Give 1 or more.")
    specs = parse_inputs(inputs)
    if model is None:
        if factory is None:
            raise PorterError("PT503", "no model was given", fix="Name a file, or --model package.module:factory.")
        _no_batch(batch, _factory_name(factory))
        module = _build(factory, factory_args or {})
        return _capture(module, specs, _factory_name(factory))
    if isinstance(model, (str, Path)):
        return _load_file(Path(model), specs, factory, factory_args or {}, run_pickled_code, batch)
    if type(model).__module__.partition(".")[0] == "onnx":
        return _onnx(model, specs, "ModelProto", batch)
    if "torch" in sys.modules and isinstance(model, sys.modules["torch"].nn.Module):
        _no_batch(batch, type(model).__name__)
        return _capture(model, specs, type(model).__name__)
    raise PorterError(
        "PT503", f"a {type(model).__module__}.{type(model).__qualname__} is not a model",
        fix="Give a path, an nn.Module, an onnx.ModelProto or a porter Graph.",
    )  # fmt: skip


def load_module(
    model: Any = None,
    *,
    factory: str | Callable[..., Any] | None = None,
    factory_args: Mapping[str, Any] | None = None,
    run_pickled_code: bool = False,
) -> Any:
    """The ``nn.Module`` itself, where there is one: for work that changes or trains it.

    Args are those of :func:`load`. Returns None for what holds a graph and no module (.onnx, .pt2, TorchScript, a
    Graph).

    Raises:
        PorterError: as :func:`load`.
    """
    if model is None:
        if factory is None:
            raise PorterError("PT503", "no model was given", fix="Name a file, or --model package.module:factory.")
        return _build(factory, factory_args or {})
    if isinstance(model, (str, Path)):
        from porter.checkpoint import kind_of

        kind = kind_of(Path(model))
        if kind.name in ("onnx", "pt2", "torchscript"):
            return None
        return _module_of_file(Path(model), kind, factory, factory_args or {}, run_pickled_code)
    if "torch" in sys.modules and isinstance(model, sys.modules["torch"].nn.Module):
        return model
    return None


def _load_file(
    path: Path,
    specs: list[InputSpec],
    factory: str | Callable[..., Any] | None,
    factory_args: Mapping[str, Any],
    run_pickled_code: bool,
    batch: int | None,
) -> Graph:
    from porter.checkpoint import kind_of

    kind = kind_of(path)
    if kind.name == "onnx":
        return _onnx(path, specs, path.name, batch)
    _no_batch(batch, path.name)
    if kind.name == "pt2":
        from porter.dialects.fx import FxGraph

        return FxGraph.load(path, specs, source=path.name, run_pickled_code=run_pickled_code)
    if kind.name == "torchscript":
        return _torchscript(path, specs)
    return _capture(_module_of_file(path, kind, factory, factory_args, run_pickled_code), specs, path.name)


def _module_of_file(
    path: Path,
    kind: Kind,
    factory: str | Callable[..., Any] | None,
    factory_args: Mapping[str, Any],
    run_pickled_code: bool,
) -> Any:
    from porter.checkpoint import read_checkpoint

    if kind.name == "unknown":
        try:
            read_checkpoint(path)
        except PorterError as error:  # says more exactly what is wrong, such as a pickle that would run code
            if error.code != "PT503":
                raise
        raise PorterError("PT503", f"{path} is not a model that porter reads", kind.reason)
    if factory is not None:
        module = _build(factory, factory_args)
        _put_weights(module, read_checkpoint(path), path)
        return module
    if kind.name == "pickled-module" or (kind.name.startswith("checkpoint") and read_checkpoint(path).is_module_pickle):
        if not run_pickled_code:
            raise PorterError(
                "PT504", f"{path} is a pickled module: loading it runs the code that it names", kind.reason,
                "If you trust the file, say --run-pickled-code. Safer: --model package.module:factory, which reads the "
                "weights only.",
            )  # fmt: skip
        return _unpickle(path)
    raise PorterError(
        "PT505", f"{path} holds weights, and weights alone have no graph", kind.reason,
        "Add --model package.module:factory (a function that returns the nn.Module) and --input name:1x3x640x640.",
    )  # fmt: skip


def _no_batch(batch: int | None, source: str) -> None:
    if batch is not None:
        raise PorterError(
            "PT519", f"{source} is not an ONNX model, and its batch belongs to the shapes of its inputs", "--batch",
            "Give whole shapes: --input images:1x3x640x640.",
        )  # fmt: skip


def _onnx(model: Any, specs: list[InputSpec], source: str, batch: int | None) -> Graph:
    from porter.dialects.onnx import OnnxGraph

    named = {name if name is not None else i: (shape, dtype) for i, (name, shape, dtype) in enumerate(specs)}
    return OnnxGraph.load(model, named, source=source, batch=batch)


def _torchscript(path: Path, specs: list[InputSpec]) -> Graph:
    from porter.dialects.fx import FxGraph

    return FxGraph.from_torchscript(path, specs)


def _capture(module: Any, specs: list[InputSpec], source: str) -> Graph:
    if not specs:
        raise PorterError(
            "PT507", f"{source} is a torch module, and its inputs have no fixed shape", "--input",
            "Say the shapes: --input images:1x3x640x640 (name:shape[:dtype], once for each input).",
        )  # fmt: skip
    from porter.dialects.fx import FxGraph

    return FxGraph.capture(module, specs, source=source)


def _factory_name(factory: str | Callable[..., Any]) -> str:
    return factory if isinstance(factory, str) else getattr(factory, "__name__", "model")


def _build(factory: str | Callable[..., Any], args: Mapping[str, Any]) -> Any:
    function = call_by_name(factory, "--model") if isinstance(factory, str) else factory
    module = run_user_code(lambda: function(**args), f"--model {_factory_name(factory)}")
    import torch

    if not isinstance(module, torch.nn.Module):
        raise PorterError(
            "PT515", f"{_factory_name(factory)} returned a {type(module).__name__}, not an nn.Module", "--model",
            "Let the factory return the model itself.",
        )  # fmt: skip
    return module


def _put_weights(module: Any, checkpoint: Checkpoint, path: Path) -> None:
    import torch

    wanted = module.state_dict()
    have = checkpoint.tensors
    missing = [key for key in wanted if key not in have]
    extra = [key for key in have if key not in wanted]
    shapes = [
        f"{key} is {_x(have[key].shape)} in the file and {_x(tuple(wanted[key].shape))} in the model"
        for key in wanted
        if key in have and tuple(have[key].shape) != tuple(wanted[key].shape)
    ]
    # Older torch versions did not store this counter, and evaluation does not read it.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or extra or shapes:
        parts = [
            f"{len(missing)} missing ({_some(missing)})" if missing else "",
            f"{len(extra)} left over ({_some(extra)})" if extra else "",
            f"{len(shapes)} of another shape ({_some(shapes)})" if shapes else "",
        ]
        raise PorterError(
            "PT518", f"the weights in {path} do not fit the model: {'; '.join(p for p in parts if p)}",
            f"{path}, read from key {checkpoint.container_key}" if checkpoint.container_key else str(path),
            "Check the factory and its arguments (--model-arg num_classes=5).",
        )  # fmt: skip
    tensors = {key: torch.from_numpy(np.array(have[key])).to(wanted[key].dtype) for key in wanted if key in have}
    module.load_state_dict(tensors, strict=False)


def _x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _unpickle(path: Path) -> Any:
    import torch

    found = run_user_code(
        lambda: torch.load(path, map_location="cpu", weights_only=False), f"--run-pickled-code {path}"
    )
    if isinstance(found, Mapping):
        for key in ("ema", "model", "module", "net"):
            if isinstance(found.get(key), torch.nn.Module):
                found = found[key]
                break
    if not isinstance(found, torch.nn.Module):
        raise PorterError("PT503", f"{path} holds a {type(found).__name__}, not a module")
    return found.float()
