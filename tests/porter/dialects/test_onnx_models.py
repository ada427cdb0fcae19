# SPDX-License-Identifier: Apache-2.0
"""Models that others made: those in the onnx package, its node tests, and exports of YOLOX."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import pytest
from test_onnx_lower import OpsGraph

from porter.dialects.onnx import OnnxGraph
from porter.dialects.onnx_variadic import in_pairs
from porter.errors import PorterError
from porter.ops import kind_known

SHIPPED = sorted(Path(onnx.backend.test.__file__).parent.glob("data/*/*/model.onnx"))


def fixed(model: onnx.ModelProto) -> dict[str, tuple[list[int], None]]:
    """2 for every open extent of an input."""
    shapes = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.type.HasField("tensor_type") and any(not d.HasField("dim_value") for d in dims):
            shapes[value.name] = ([d.dim_value or 2 for d in dims], None)
    return shapes


def test_every_model_in_the_onnx_package_loads(tmp_path: Path) -> None:
    assert len(SHIPPED) > 100
    for path in SHIPPED:
        model = onnx.load(path)
        graph = OnnxGraph.load(path, fixed(model))
        for op in graph.ops():
            assert kind_known(op.kind) or ":" in op.kind
            assert op.origin.known
        graph.replace([])
        nodes = [node.proto.SerializeToString() for node in graph._model.nodes]
        read = in_pairs([node for node in model.graph.node if node.op_type], [])
        assert nodes == [node.SerializeToString() for node in read], path
        graph.save(tmp_path / "m.onnx")


def node_cases() -> Iterator[Any]:
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        plain = case.data_sets and all(
            isinstance(a, np.ndarray) for pair in case.data_sets[:1] for s in pair for a in s
        )
        if plain and "_expanded" not in case.name:
            yield case


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_node_tests_of_onnx_mean_what_they_are_lifted_to() -> None:
    """Every node test of the onnx package, lifted and written again from its meaning alone, gives the same numbers."""
    verdicts: Counter[str] = Counter()
    wrong = []
    for case in node_cases():
        inputs, _ = case.data_sets[0]
        shapes = {v.name: (a.shape, None) for v, a in zip(case.model.graph.input, inputs, strict=False)}
        graph = OnnxGraph.load(case.model, shapes)
        ops = graph.ops()
        odd = ("random", "if", "loop", "scan")
        if any(":" in op.kind or op.kind.startswith("dynamic_") or op.kind in odd for op in ops):
            verdicts["unknown"] += 1
            continue
        try:
            want = graph.run(inputs)
        except PorterError:  # onnxruntime has no kernel for it
            verdicts["not run"] += 1
            continue
        again = OnnxGraph.from_graph(OpsGraph(graph.inputs, ops, graph.outputs), max(graph.opset, 17))
        got = again.run(inputs)
        for a, b in zip(got, want, strict=True):
            close = a.dtype == b.dtype and a.shape == b.shape
            if close and a.dtype.kind in "fiub":
                tolerance = 2e-3 if a.dtype == np.float16 else 1e-4
                close = np.allclose(a.astype("f8"), b.astype("f8"), rtol=tolerance, atol=tolerance, equal_nan=True)
            if not close:
                wrong.append(case.name)
        verdicts["same"] += 1
    # A row that the mask hides whole has no defined attention.
    assert [name for name in wrong if "nan_robustness" not in name] == []
    assert verdicts["same"] > 500


# -- YOLOX -----------------------------------------------------------------------------------------

EXAMPLE = Path(__file__).parents[3] / "examples" / "yolox_mlu270"


def export(tmp_path: Path, decode: str, **options: Any) -> tuple[Path, np.ndarray[Any, Any]]:
    torch = pytest.importorskip("torch")
    from examples.yolox_mlu270 import yolox

    torch.manual_seed(0)
    model = yolox.yolox_nano(num_classes=3, decode=decode).eval()
    images = torch.randn(1, 3, 64, 64)
    path = tmp_path / f"{decode}.onnx"
    torch.onnx.export(model, (images,), str(path), input_names=["images"], output_names=["out"], **options)
    return path, images.numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("decode", ["modern", "legacy"])
def test_yolox_by_the_old_exporter(tmp_path: Path, decode: str, opset: int) -> None:
    path, images = export(tmp_path, decode, dynamo=False, opset_version=opset)
    graph = OnnxGraph.load(path)
    kinds = Counter(op.kind for op in graph.ops())
    assert not [kind for kind in kinds if ":" in kind or kind.startswith("dynamic_")]
    assert kinds["slice_assign"] == (2 if decode == "legacy" else 0) and not kinds["scatter_nd"]
    assert all(out.shape is not None for op in graph.ops() for out in op.outputs)
    modules = {op.origin.module for op in graph.ops() if op.kind == "conv2d"}
    assert "backbone.backbone.stem.conv.conv" in modules and "head.stems.0.conv" in modules
    assigned = [op for op in graph.ops() if op.kind == "slice_assign"]
    assert all(op.origin.module == "head" for op in assigned)
    again = OnnxGraph.from_graph(OpsGraph(graph.inputs, graph.ops(), graph.outputs), 17)
    np.testing.assert_allclose(again.run([images])[0], graph.run([images])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_yolox_with_dynamic_axes(tmp_path: Path) -> None:
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    path, _ = export(tmp_path, "legacy", dynamo=False, opset_version=13, dynamic_axes=axes)
    with pytest.raises(PorterError) as error:
        OnnxGraph.load(path)
    assert error.value.code == "PT507"
    with pytest.raises(PorterError) as error:  # torch baked the grids of 64 x 64 in
        OnnxGraph.load(path, {"images": ((2, 3, 96, 64), None)})
    assert error.value.code == "PT506" and "[1, 84, 2]" in error.value.message
    graph = OnnxGraph.load(path, {"images": ((2, 3, 64, 64), None)})
    kinds = Counter(op.kind for op in graph.ops())
    assert not [kind for kind in kinds if ":" in kind or kind.startswith("dynamic_")]
    assert kinds["slice_assign"] == 2
    assert graph.outputs[0].shape == (2, 84, 8)
    assert graph.run([np.zeros((2, 3, 64, 64), "f4")])[0].shape == (2, 84, 8)


@pytest.mark.filterwarnings("ignore")
def test_yolox_by_the_new_exporter(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    path, images = export(tmp_path, "legacy", dynamo=True, external_data=False, verbose=False)
    graph = OnnxGraph.load(path)
    kinds = Counter(op.kind for op in graph.ops())
    assert not [kind for kind in kinds if ":" in kind or kind.startswith("dynamic_")]
    assert kinds["slice_assign"] == 2
    lines = (EXAMPLE / "yolox.py").read_text(encoding="utf-8").splitlines()
    for op in graph.ops():
        assert op.origin.file == str(EXAMPLE / "yolox.py")
        if op.kind == "slice_assign":
            # torch records the frames of modules, and not those of the functions that they call.
            assert op.origin.line and "decode_legacy" in lines[op.origin.line - 1]
        if op.kind == "conv2d":
            assert op.origin.module and op.origin.module.startswith(("backbone.", "head."))
    again = OnnxGraph.from_graph(OpsGraph(graph.inputs, graph.ops(), graph.outputs), 17)
    np.testing.assert_allclose(again.run([images])[0], graph.run([images])[0], rtol=1e-4, atol=1e-4)


def test_large_model_is_loaded_and_saved_without_its_weights(tmp_path: Path) -> None:
    """2.8 GB of external weights: in under 2 s and 0.3 GB of memory. The data file is sparse, so it costs no disk."""
    import subprocess

    tensors, nodes, last = [], [], "x"
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(28 * 100_000_000)
    for i in range(28):
        tensor = onnx.TensorProto(name=f"w{i}", data_type=1, dims=[5000, 5000], data_location=1)
        for key, value in (("location", "w.bin"), ("offset", str(i * 100_000_000)), ("length", "100000000")):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
        nodes.append(onnx.helper.make_node("MatMul", [last, f"w{i}"], [f"y{i}"]))
        last = f"y{i}"
    infos = [onnx.helper.make_tensor_value_info(n, 1, [1, 5000]) for n in ("x", last)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors), ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "out").mkdir()
    # VmHWM and not ru_maxrss: the latter starts from what the parent process had before it became this one.
    code = """
import pathlib, sys
from porter.dialects.onnx import OnnxGraph
from porter.dialects.onnx_variadic import in_pairs
graph = OnnxGraph.load(sys.argv[1])
assert len(graph.ops()) == 28
graph.save(pathlib.Path(sys.argv[2]), {})
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["VmHWM"].split()[0])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(tmp_path / "out" / "n.onnx")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    assert int(out) < 300_000  # kB
    (data,) = [p for p in (tmp_path / "out").iterdir() if p.name != "n.onnx"]
    assert data.stat().st_size == 2_800_000_000
    saved = OnnxGraph.load(tmp_path / "out" / "n.onnx")
    assert saved.ops()[27].inputs[1] is not None and saved.ops()[27].inputs[1].numpy()[0, 0] == 0
