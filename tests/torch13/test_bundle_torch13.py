# SPDX-License-Identifier: Apache-2.0
"""A bundle where it is meant to run: torch 1.3.1 on Python 3.7, with a stand-in of torch_mlu for the device."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from torch13_tools import HERE, Runner

pytestmark = pytest.mark.torch13


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from emit_models import bundle

    return bundle(tmp_path_factory.mktemp("bundle") / "b", "int16", "int8").path


def rehash(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_float_runs_and_traces(made: Path, old: Runner, tmp_path: Path) -> None:
    done = old(made / "port.py", "--device", "cpu", "--dtype", "int16", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch 1.3.1" in done.stdout
    assert done.stdout.count("eager") == done.stdout.count("traced") == 2
    assert not re.search(r"OVER [0-9]", done.stdout)
    use = "import torch; print(torch.jit.load('Detector_cpu_int16.pt')(torch.zeros(1, 12, 16, 16))[0].shape)"
    loaded = old("-c", use, cwd=tmp_path)
    assert "[1, 245, 6]" in loaded.stdout, loaded.stderr


@pytest.mark.parametrize("dtype", ["int16", "int8"])
def test_the_device_computes_what_was_simulated(made: Path, old: Runner, tmp_path: Path, dtype: str) -> None:
    # 2e-3: a value on the edge between two integers may fall to the other side in the other implementation.
    done = old(made / "port.py", "--dtype", dtype, "--tolerance", "2e-3", "--cores", "16", "--out", "net", double=True,
               cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"MLU, {dtype}, layer by layer" in done.stdout
    assert (tmp_path / "net.cambricon").read_bytes()[:4] == b"\x7fMEF"
    twins = (tmp_path / "net.cambricon_twins").read_text()
    assert "Shape(dim): 1 16 16 12 " in twins
    assert "Shape(dim): 1 6 245 " in twins
    assert "Model Parallelism: 16" in twins


STRICT = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
from model import Model
from torch_mlu.core.mlu_quantize import quantize_dynamic_mlu
about = json.load(open(sys.argv[1] + "/manifest.json"))["quantization"]
for dtype, mode in (("int16", 2), ("int8", 1)):
    if dtype not in about:
        continue
    net = quantize_dynamic_mlu(Model().eval(), about[dtype]["qconfig"], dtype=dtype)
    print(net.load_state_dict(torch.load(sys.argv[1] + "/" + about[dtype]["file"]), strict=True))
    swapped = {name: int(m.quantized_mode) for name, m in net.named_modules() if type(m).__name__.startswith("MLU")}
    assert swapped == {name: mode for name in about[dtype]["layers"]}, swapped
"""


def test_quantized_weights_load_strict(made: Path, old: Runner) -> None:
    done = old("-c", STRICT, made, double=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("All keys matched") == 2


ORDER = """
import sys, runpy
import torch_mlu.core.mlu_model as ct
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("exit", end.code)
print(ct.CALLS)
"""


def test_the_calls_come_in_the_order_that_the_device_needs(made: Path, old: Runner, tmp_path: Path) -> None:
    done = old("-c", ORDER, made / "port.py", "--fake-device", "--input-format", "bgra", double=True, cwd=tmp_path)
    assert "exit 0" in done.stdout, done.stdout + done.stderr
    calls = [tuple(call) for call in eval(done.stdout.splitlines()[-1])]
    assert calls == [
        ("device", -1), ("core_number", 4), ("core_version", "MLU270"), ("input_format", 2),
        ("name", "Detector_mlu270_int16"), ("trace", ((1, 12, 16, 16),)), ("name", ""),
    ]  # fmt: skip


def test_layers_are_compared_on_request(made: Path, old: Runner, tmp_path: Path) -> None:
    done = old(made / "port.py", "--layers", "--no-eager", double=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    layers = done.stdout.partition("layers, device against")[2].partition("case 0")[0]
    names = [line.split()[0] for line in layers.splitlines() if line.endswith("ok")]
    assert names == ["stem.0", "stem.1", "depthwise", "head.0", "head.1", "fc"]


def test_a_device_that_computes_something_else_fails(made: Path, old: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(made, folder)
    import torch

    state = torch.load(folder / "weights_int16.pt", weights_only=True)
    state["head.1.scale"] = state["head.1.scale"] * torch.tensor([64.0, 1.0])  # clips its input
    torch.save(state, folder / "weights_int16.pt", _use_new_zipfile_serialization=False)
    rehash(folder, "weights_int16.pt")
    done = old(folder / "port.py", "--layers", double=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    layers = done.stdout.partition("layers, device against")[2].partition("case 0")[0]
    assert re.findall(r"^  (\S+) .* OVER [0-9.]+$", layers, re.MULTILINE) == ["head.1"]


def test_weights_whose_scales_find_no_layer_are_refused(made: Path, old: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(made, folder)
    source = (folder / "model.py").read_text()
    # A subclass with another name is not swapped by the quantizer: its scales would be dropped silently.
    source = source.replace("class Block(", "class MyConv(nn.Conv2d):\n    pass\n\n\nclass Block(")
    source = source.replace('"head.1", nn.Conv2d(', '"head.1", MyConv(')
    (folder / "model.py").write_text(source)
    rehash(folder, "model.py")
    done = old(folder / "port.py", double=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "Layers: head.1" in done.stderr


def test_per_channel_scales(old: Runner, tmp_path: Path) -> None:
    from emit_models import graph, samples

    import porter
    from porter.emit.bundle import emit
    from porter.target import Target

    made = porter.quantize(graph(), "mlu270", samples(4), dtype="int8", per_channel=True)
    emit(graph(), Target.load("mlu270"), tmp_path / "b", inputs=samples(1), quantized=[made])
    done = old(tmp_path / "b" / "port.py", "--tolerance", "2e-3", double=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_first_convolution_takes_pixels(old: Runner, tmp_path: Path) -> None:
    import torch
    from PIL import Image

    import porter
    from porter.data import open_data
    from porter.emit.bundle import emit
    from porter.target import Target

    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 1)).eval()
    graph = porter.load(net, {"image": (1, 3, 16, 16)})
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(2)
    for n in range(3):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(images / f"{n}.png")
    (images / "preprocess.toml").write_text(
        'resize = "stretch"\nlayout = "NCHW"\nchannels = "RGB"\nscale = 0.00392156862745098\n'
        "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"
    )
    data = open_data(images, graph.inputs)
    made = porter.quantize(graph, "mlu270", images, dtype="int8", first_conv=True)
    emit(graph, Target.load("mlu270"), tmp_path / "b", inputs=data, quantized=[made])
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    qconfig = manifest["quantization"]["int8"]["qconfig"]
    assert qconfig["firstconv"]
    assert qconfig["mean"] == pytest.approx([0.485, 0.456, 0.406])
    done = old(tmp_path / "b" / "port.py", "--layers", "--tolerance", "0.02", double=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"OVER [0-9]", done.stdout)


PITFALLS = """
import torch
from torch import nn
from torch_mlu.core.mlu_quantize import quantize_dynamic_mlu
try:
    quantize_dynamic_mlu(nn.Sequential(nn.Conv2d(12, 4, 1)), dtype="int16")
except AssertionError as error:
    print("assert", error)
net = quantize_dynamic_mlu(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), dtype="int16")
print(net[1].mode, hasattr(net[0], "input_mean"))
"""


def test_the_stand_in_has_the_pitfalls_of_the_real_one(old: Runner) -> None:
    # A call without a qconfig: what port.py must never make.
    done = old("-c", PITFALLS, double=True)
    assert done.stdout.splitlines() == ["assert in_channels of the first convolution must be 1, 3 or 4", "1 True"], (
        done.stderr
    )


@pytest.mark.parametrize("name", ["model.py", "port.py"])
def test_python_3_6_reads_the_sources(made: Path, name: str) -> None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*map(str, pyenv.glob("3.6.*/bin/python3.6")), shutil.which("python3.6")]
    python = next((p for p in candidates if p and not subprocess.run([p, "-c", ""], check=False).returncode), None)
    if python is None:
        pytest.skip("no Python 3.6 on PATH or in pyenv")
    command = [python, "-c", "import ast, sys; ast.parse(open(sys.argv[1], encoding='utf-8').read())", str(made / name)]
    subprocess.run(command, check=True)


def test_yolox_nano_from_the_model_to_the_device(old: Runner, tmp_path: Path) -> None:
    """The whole way: YOLOX with its slice assignments, rewritten, quantized, emitted, run in torch 1.3.1."""
    import torch

    import porter
    from examples.yolox_mlu270.yolox import yolox_nano

    torch.manual_seed(0)
    net = yolox_nano(6, "legacy").eval()
    rng = np.random.default_rng(0)
    data = [[rng.uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)] for _ in range(3)]
    ported = porter.port(net, "mlu270", data, tmp_path / "b", {"images": (1, 3, 64, 64)}, dtypes=("int16", "int8"))
    bundle = ported.bundle
    assert ported.rewritten.ok and bundle is not None
    state = torch.load(bundle.path / "weights_float.pt", weights_only=True)
    assert set(net.state_dict()) <= set(state)
    for args, double in (
        (("--device", "cpu", "--dtype", "int16"), False),
        (("--dtype", "int16"), True),
        (("--dtype", "int8"), True),
    ):
        done = old(bundle.path / "port.py", *args, double=double, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    strict = old("-c", STRICT, bundle.path, double=True)
    assert strict.stdout.count("All keys matched") == 2, strict.stderr


def test_yolox_s_at_its_full_size(old: Runner, tmp_path: Path) -> None:
    """YOLOX-s, 640 x 640: eager and traced within 1e-4 of the outputs' range (port.py's bound), int16 keys strict."""
    import torch

    import porter
    from examples.yolox_mlu270.yolox import yolox_s

    torch.manual_seed(0)
    images = [[np.random.default_rng(0).uniform(0, 255, (1, 3, 640, 640)).astype(np.float32)]]
    ported = porter.port(yolox_s(80, "legacy"), "mlu270", images, tmp_path / "b", {"images": (1, 3, 640, 640)})
    assert ported.bundle is not None
    done = old(ported.bundle.path / "port.py", "--device", "cpu", "--dtype", "int16", cwd=tmp_path)
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stdout + done.stderr
    strict = old("-c", STRICT, ported.bundle.path, double=True)
    assert strict.stdout.count("All keys matched") == 1, strict.stderr


def test_the_stand_in_is_for_tests_only() -> None:
    assert not any("double" in str(p) for p in (HERE.parent.parent / "porter").rglob("*"))
