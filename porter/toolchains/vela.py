# SPDX-License-Identifier: Apache-2.0
"""Arm Vela (Apache-2.0) for Ethos-U55 and U85: onnx2tf makes a .tflite, ai-edge-quantizer quantizes it to int8.

Vela says which operators it leaves to the CPU. Numbers come from the interpreter of LiteRT, which runs the very int8
.tflite that Vela compiles. onnx2tf 2.6.9 wants another LiteRT than the quantizer brings; the quantizer's
works for both.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

TITLE = "Vela"
LICENCE = "Apache-2.0 (onnx2tf: MIT, ai-edge-quantizer: Apache-2.0)"
PYTHONS = ("3.12",)
PACKAGES = (("ethos-u-vela==5.2.0", "onnx2tf==2.6.9"), ("ai-edge-quantizer==0.10.0",))
VERSIONS = ("ethos-u-vela", "onnx2tf", "ai-edge-quantizer")
ARTIFACTS = (".tflite",)
#: Ranks of inputs behind a convolution, and of outputs before one: an op alone is not brought to channels last, as the
#: ops of a real model are.
LEAD = TRAIL = (4,)
NUMERICS = "int8"
TARGETS = {
    "ethos-u55": {"accelerator": "ethos-u55-256"},
    "ethos-u85": {"accelerator": "ethos-u85-256"},
}

_OPERATOR = re.compile(r"^\s+(CPU|NPU): (\S+) = (.*?) \(outputs")
_WARNING = re.compile(r"^Warning \(supported operators\) operator: (\S+), ofm: '(.*)'$")


def load(which: Any) -> dict[str, Any]:
    """Import what every job needs, also what is imported only on the way: one model is compiled for that."""
    helper = importlib.import_module("onnx.helper")
    tensors = [helper.make_tensor_value_info(name, 1, [1, 4, 6, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "warm", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    np = importlib.import_module("numpy")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module("onnx").save(model, "model.onnx")
        np.savez("feeds.npz", **{"x:0": np.ones((1, 4, 6, 8), np.float32)})
        job = {"model": "model.onnx", "feeds": "feeds.npz", "results": "results.npz", "inputs": ["x"], "outputs": ["y"],
               "samples": 1, "cases": 1, "simplify": False, "options": {"accelerator": "ethos-u55-256"}}  # fmt: skip
        run(job, lambda _stage: None)
    return {}


def run(job: dict[str, Any], stage: Any) -> dict[str, Any]:
    """Convert, quantize and compile one model; which operators stay on the CPU, and the int8 model's outputs."""
    np = importlib.import_module("numpy")
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
    feeds = np.load(job["feeds"])
    folder = Path("tflite")
    stage("onnx2tf")
    importlib.import_module("onnx2tf").convert(
        input_onnx_file_path=job["model"],
        output_folder_path=str(folder),
        non_verbose=True,
        verbosity="error",
        not_use_onnxsim=not job["simplify"],
    )
    floating = folder / f"{Path(job['model']).stem}_float32.tflite"
    stage("quantize")
    quantizer = importlib.import_module("ai_edge_quantizer")
    recipe = importlib.import_module("ai_edge_quantizer.recipe").static_wi8_ai8()
    signature = next(iter(interpreter(str(floating)).get_signature_list()))
    samples = [
        {name: _laid_out(np, feeds[f"{name}:{i}"], _shapes(interpreter, floating)[name]) for name in job["inputs"]}
        for i in range(job["samples"])
    ]
    made = quantizer.quantizer.Quantizer(str(floating), recipe)
    result = made.quantize(made.calibrate({signature: samples}))
    integer = folder / f"{Path(job['model']).stem}.tflite"
    integer.write_bytes(bytes(result.quantized_model))
    stage("vela")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        importlib.import_module("ethosu.vela.vela").main(
            [str(integer), "--accelerator-config", job["options"]["accelerator"], "--show-cpu-operations",
             "--output-dir", str(folder)]
        )  # fmt: skip
    print(printed.getvalue())
    # The warnings come from Vela's native part, which writes to the process's own output.
    sys.stdout.flush()
    log = Path("log.txt")
    found = _placement(log.read_text(encoding="utf-8", errors="replace") if log.exists() else printed.getvalue())
    found["artifact"] = str((folder / f"{integer.stem}_vela.tflite").resolve())
    stage("simulate")
    _simulate(np, interpreter, integer, samples, job)
    return found


def _shapes(interpreter: Any, model: Path) -> dict[str, tuple[int, ...]]:
    return {d["name"]: tuple(d["shape"]) for d in interpreter(str(model)).get_input_details()}


def _laid_out(np: Any, array: Any, shape: tuple[int, ...]) -> Any:
    """The array as the .tflite wants it: as it is, or channels last."""
    if array.shape == shape:
        return array
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)).reshape(shape)


def _placement(printed: str) -> dict[str, Any]:
    """What ran where, and why not on the NPU, from what Vela prints."""
    lines = printed.splitlines()
    placed: dict[str, list[str]] = {"CPU": [], "NPU": []}
    reasons = []
    for i, line in enumerate(lines):
        if found := _OPERATOR.match(line):
            placed[found[1]].append(f"{found[2]} {found[3]}")
        elif found := _WARNING.match(line):
            said = [part.strip() for part in lines[i + 1 : i + 3] if not part.startswith("flatbuffer_direct")]
            reasons.append(f"{found[1]}: " + " ".join(said).removeprefix("Reason: "))
    return {"cpu": placed["CPU"], "npu": placed["NPU"], "reasons": reasons}


def _simulate(np: Any, interpreter: Any, model: Path, samples: list[dict[str, Any]], job: dict[str, Any]) -> None:
    """Run the int8 model with LiteRT's built-in kernels and keep its outputs as floats, in the order of the model."""
    plain = importlib.import_module("ai_edge_litert.interpreter").OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    runner = interpreter(str(model), experimental_op_resolver_type=plain, num_threads=1)
    runner.allocate_tensors()
    inputs = {d["name"]: d for d in runner.get_input_details()}
    given = {d["name"]: d for d in runner.get_output_details()}
    # The quantizer may put a step of its own behind an output and name its result "y_quantized".
    outputs = {name: given.get(name) or given[f"{name}_quantized"] for name in job["outputs"]}
    results = {}
    for i, sample in enumerate(samples[: job["cases"]]):
        for name, array in sample.items():
            detail = inputs.get(name) or inputs[f"{name}_quantized"]
            runner.set_tensor(detail["index"], _integers(np, array, detail))
        runner.invoke()
        for number, name in enumerate(job["outputs"]):
            results[f"{number}:{i}"] = _floats(runner.get_tensor(outputs[name]["index"]), outputs[name])
    np.savez(job["results"], **results)


def _integers(np: Any, array: Any, detail: dict[str, Any]) -> Any:
    scale, zero = detail["quantization"]
    if not scale:
        return array.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def _floats(array: Any, detail: dict[str, Any]) -> Any:
    scale, zero = detail["quantization"]
    return (array.astype("float32") - zero) * scale if scale else array
