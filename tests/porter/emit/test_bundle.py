# SPDX-License-Identifier: Apache-2.0
"""Bundles: what is in them, that they run in the current torch, and that a failure leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from emit_models import bundle, detector, graph, quantized, samples

import porter
from porter.emit import bundle as bundles
from porter.emit.bundle import Bundle, emit
from porter.emit.python35 import newer_than_35
from porter.errors import PorterError
from porter.preprocess import Preprocess
from porter.target import Target

MLU270 = Target.load("mlu270")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(tmp_path_factory.mktemp("bundle") / "b", "int16", "int8")


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "port.py"), "--device", "cpu", "--out", str(folder / "made"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_manifest_names_every_file_with_its_hash(made: Bundle) -> None:
    manifest = json.loads((made.path / "manifest.json").read_text())
    names = {p.name for p in made.path.iterdir() if p.is_file()} - {"manifest.json", ".porter"}
    assert names == set(manifest["files"]) == set(made.files)
    assert names >= {"model.py", "weights_float.pt", "weights_int16.pt", "weights_int8.pt", "port.py", "golden.npz",
                     "traced.pt", "README.md"}  # fmt: skip
    for name, about in manifest["files"].items():
        data = (made.path / name).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (about["sha256"], about["bytes"])


def test_the_float_weights_are_the_checkpoint(made: Bundle) -> None:
    state = torch.load(made.path / "weights_float.pt", weights_only=True)
    assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in detector().state_dict().items()}
    assert (made.path / "weights_float.pt").read_bytes()[:2] != b"PK"  # torch 1.3 reads no zip


def test_the_quantized_weights_have_the_layout_of_torch_mlu(made: Bundle) -> None:
    state = torch.load(made.path / "weights_int16.pt", weights_only=True)
    weight = state["fc.weight"].abs().max().item()
    keys = list(state)
    assert keys[keys.index("fc.bias") + 1 :] == ["fc.quantized_mode", "fc.scale"]
    at = keys.index("stem.0.weight")
    assert keys[at + 1 : at + 3] == ["stem.0.scale", "stem.0.quantized_mode"]
    assert state["fc.scale"].dtype == torch.float32
    assert state["fc.scale"][1].item() == pytest.approx(32767 / weight, rel=1e-6)
    assert (state["fc.quantized_mode"].tolist(), state["fc.quantized_mode"].dtype) == ([2], torch.int32)
    largest = max(np.abs(item[0]).max() for item in samples(4))
    assert state["stem.0.scale"][0].item() == pytest.approx(32767 / largest, rel=1e-6)
    assert {k.rpartition(".")[0] for k in keys if k.endswith(".scale")} == {
        "stem.0", "depthwise", "head.0", "head.1", "fc",
    }  # fmt: skip
    int8 = torch.load(made.path / "weights_int8.pt", weights_only=True)
    assert int8["depthwise.quantized_mode"].tolist() == [1]


def test_golden_data_are_the_models_own(made: Bundle) -> None:
    with np.load(made.path / "golden.npz") as data:
        for case, item in enumerate(samples(2)):
            np.testing.assert_array_equal(data[f"input_{case}_0"], item[0])
            want = [t.detach().numpy() for t in detector()(torch.from_numpy(item[0]))]
            for i, array in enumerate(want):
                np.testing.assert_allclose(data[f"float_{case}_{i}"], array, rtol=1e-4, atol=1e-4)
                assert (
                    0 < np.abs(data[f"int16_{case}_{i}"] - array).max() < np.abs(data[f"int8_{case}_{i}"] - array).max()
                )


def test_the_trace_runs(made: Bundle) -> None:
    item = torch.from_numpy(samples(1)[0][0])
    got = torch.jit.load(made.path / "traced.pt")(item)
    torch.testing.assert_close(got, detector()(item), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["model.py", "port.py"])
def test_the_sources_are_python_3_5_and_free_of_this_machine(made: Bundle, name: str) -> None:
    source = (made.path / name).read_text(encoding="utf-8")
    assert newer_than_35(source) == []
    assert source.isascii()
    assert "import porter" not in source
    assert str(Path(__file__).parent) not in source


def test_port_passes_in_the_current_torch(made: Bundle) -> None:
    done = run(made.path, "--dtype", "int16")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
    assert "4 columns in 0..1 (scores)" in done.stdout
    assert "5 layers have their scales, mode 2" in done.stdout


def copied(made: Bundle, out: Path) -> Path:
    out.mkdir()
    for path in made.path.iterdir():
        if path.is_file():
            (out / path.name).write_bytes(path.read_bytes())
    return out


def rehash(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_port_refuses_a_changed_file(made: Bundle, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "b")
    (folder / "model.py").write_text((folder / "model.py").read_text() + "# touched\n")
    done = run(folder)
    assert done.returncode == 2
    assert "model.py is not the file that porter wrote" in done.stderr
    (folder / "golden.npz").unlink()
    assert "golden.npz is missing" in run(folder).stderr


def test_port_fails_when_only_the_scores_differ(made: Bundle, tmp_path: Path) -> None:
    # Boxes reach hundreds: an error of all scores is 1e-4 of the whole output's range and must still be seen.
    folder = copied(made, tmp_path / "b")
    with np.load(folder / "golden.npz") as data:
        arrays = dict(data)
    arrays["float_0_0"] = arrays["float_0_0"].copy()
    arrays["float_0_0"][..., 2:] *= 0.999
    np.savez_compressed(folder / "golden.npz", **arrays)
    rehash(folder, "golden.npz")
    done = run(folder)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "OVER" in line]
    assert lines
    assert all("scores" in line for line in lines)


def test_port_refuses_weights_that_do_not_fit(made: Bundle, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "b")
    state = torch.load(folder / "weights_float.pt", weights_only=True)
    del state["fc.bias"]
    torch.save(state, folder / "weights_float.pt", _use_new_zipfile_serialization=False)
    rehash(folder, "weights_float.pt")
    done = run(folder)
    assert (done.returncode, "the weights lack fc.bias" in done.stderr) == (2, True)
    state["elsewhere.scale"] = torch.ones(2)
    torch.save(state, folder / "weights_float.pt", _use_new_zipfile_serialization=False)
    rehash(folder, "weights_float.pt")
    assert "elsewhere.scale" in run(folder).stderr


def test_the_device_is_asked_for_by_default(made: Bundle) -> None:
    done = subprocess.run([sys.executable, made.path / "port.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch_mlu cannot be imported" in done.stderr


def test_readme_gives_the_order_of_axes_on_the_device(made: Bundle) -> None:
    text = (made.path / "README.md").read_text()
    assert "| 1 x 245 x 6 | 1 x 6 x 245 |" in text
    assert "| 1 x 12 x 16 x 16 | 1 x 16 x 16 x 12 |" in text
    assert "_mlu270_int16.cambricon_twins`" in text
    assert "$" not in text


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: object, **__: object) -> str:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("porter.emit.cambricon_torch13"), "write_checkpoint", fail)
    with pytest.raises(KeyboardInterrupt):
        emit(graph(), MLU270, tmp_path / "b", inputs=samples(1))
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    emit(graph(), MLU270, tmp_path / "b", inputs=samples(1))
    with pytest.raises(PorterError) as caught:
        emit(graph(), MLU270, tmp_path / "b", inputs=samples(1))
    assert caught.value.code == "PT512"
    again = emit(graph(), MLU270, tmp_path / "b", inputs=samples(6), overwrite=True, cores=16)
    assert again.manifest["golden"]["cases"] == bundles.GOLDEN
    assert again.manifest["target"]["default_cores"] == 16
    assert "no quantized weights" in (tmp_path / "b" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"cores": 7}, "1, 4, 16 cores, not 7"),
        ({"inputs": []}, "no golden input"),
        ({"quantized": "twice"}, "two quantized models are int16"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], what: str
) -> None:
    if change.get("quantized"):
        change = {"quantized": quantized("int16") * 2}
    with pytest.raises(PorterError) as caught:
        emit(graph(), MLU270, tmp_path / "b", **{"inputs": samples(1), **change})  # type: ignore[arg-type]
    assert caught.value.code == "PT342"
    assert what in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_how_images_were_preprocessed_goes_along(tmp_path: Path) -> None:
    (made,) = quantized("int16")
    spec = Preprocess(size=(8, 8), mean=(0.5,), scale=1 / 255, channels="BGR")
    bundle = emit(graph(), MLU270, tmp_path / "b", inputs=samples(1), quantized=[replace(made, preprocess=spec)])
    assert Preprocess.load(tmp_path / "b" / "preprocess.toml") == spec
    assert "preprocess.toml" in bundle.files


def test_layers_of_several_widths_make_no_bundle(tmp_path: Path) -> None:
    made = porter.quantize(graph(), "mlu270", samples(2), dtype="int8", pins={"fc": "int16"})
    with pytest.raises(PorterError, match=r"PT463.*int16 and int8"):
        emit(graph(), MLU270, tmp_path / "b", inputs=samples(1), quantized=[made])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_artifact_names_the_nearest(tmp_path: Path) -> None:
    assert MLU270.artifact is not None
    odd = replace(MLU270, artifact=replace(MLU270.artifact, kind="onxn"))
    with pytest.raises(PorterError) as caught:
        emit(graph(), odd, tmp_path / "b", inputs=samples(1))
    assert "Did you mean onnx?" in str(caught.value)


def test_the_onnx_kind(tmp_path: Path) -> None:
    import onnxruntime

    target = Target.load("onnxruntime")
    made = emit(graph(), target, tmp_path / "b", inputs=samples(1))
    assert made.kind == "onnx"
    session = onnxruntime.InferenceSession(made.path / "model.onnx")
    got = session.run(None, {session.get_inputs()[0].name: samples(1)[0][0]})
    with np.load(made.path / "golden.npz") as data:
        for i, array in enumerate(got):
            np.testing.assert_allclose(array, data[f"float_0_{i}"], rtol=1e-4, atol=1e-4)
