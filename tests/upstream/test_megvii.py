# SPDX-License-Identifier: Apache-2.0
"""Megvii's own YOLOX, unmodified, from its release to a bundle, and through its plain ONNX exports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.upstream

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "scripts"), str(HERE)]
SIZES = {"yolox_nano": 416, "yolox_s": 640}

#: What the named line of upstream's source must hold for a finding of each kind.
SAYS = {
    "silu": "self.act(",
    "slice_assign": "outputs[..., ",
    "arange": "torch.arange",
    "meshgrid": "torch.meshgrid",
    "stack": "torch.stack",
    "full": "torch.full",
    "cat": "torch.cat",
    "cast": ".type(dtype)",
}


@pytest.fixture(scope="module")
def factories():
    pytest.importorskip("torch")
    import upstream_yolox

    try:
        upstream_yolox.source()
    except RuntimeError as why:
        pytest.skip(str(why))
    import megvii

    return megvii


@pytest.fixture(scope="module", params=list(SIZES))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def images(name):
    size = SIZES[name]
    return np.random.default_rng(0).uniform(0, 255, (3, 3, size, size)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(factories, name):
    import porter

    size = SIZES[name]
    return porter.load(None, {"images": (1, 3, size, size)}, factory=getattr(factories, name))


def test_every_finding_names_the_line_that_it_is_about(graph):
    import porter

    report = porter.check(graph, "mlu270")
    assert report.portable and not report.ok
    seen = set()
    for finding in report.findings:
        line = Path(finding.origin.file).read_text().splitlines()[finding.origin.line - 1]
        if finding.kind in SAYS:
            assert SAYS[finding.kind] in line, (finding, line)
            seen.add(finding.kind)
        assert finding.origin.module, finding
    assert {"silu", "slice_assign", "arange", "meshgrid", "full"} <= seen


def test_rewritten_it_is_legal_and_equal(graph, images):
    import porter

    made = porter.rewrite(graph, "mlu270", data=[image[None] for image in images], samples=1)
    assert made.report.ok and made.evidence.ok
    assert made.evidence.worst.relative < 1e-4
    assert all(entry.measured is None or entry.measured.relative < 1e-4 for entry in made.ledger.entries)
    assert all(op.origin.file and op.origin.line for op in made.graph.ops())


def test_the_whole_port_by_command(name, images, tmp_path, monkeypatch, capsys):
    from porter import cli

    np.save(tmp_path / "calibration.npy", images)
    monkeypatch.chdir(tmp_path)
    size = SIZES[name]
    arguments = [
        "porter", "port", "--target", "mlu270", "--model", f"{HERE / 'megvii.py'}:{name}",
        "--input", f"images:1x3x{size}x{size}", "--calibration", "calibration.npy", "-o", "bundle",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert not end.value.code, said.err
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert {"model.py", "port.py", "weights_float.pt", "weights_int16.pt", "golden.npz", "README.md"} <= set(
        manifest["files"]
    )


@pytest.mark.parametrize("exporter", ["opset 11", "current"])
def test_its_plain_onnx_exports(factories, name, images, exporter, tmp_path):
    import torch

    import porter

    module = getattr(factories, name)()
    size = SIZES[name]
    example = torch.from_numpy(images[:1])
    path = tmp_path / "exported.onnx"
    names = {"input_names": ["images"], "output_names": ["output"]}
    if exporter == "opset 11":
        torch.onnx.export(module, (example,), path, opset_version=11, dynamo=False, **names)
    else:
        torch.onnx.export(module, (example,), path, dynamo=True, verbose=False, **names)
    report = porter.check(path, "mlu270")
    assert report.portable
    made = porter.rewrite(path, "mlu270", data=[image[None] for image in images[:2]], samples=1)
    assert made.report.ok and made.evidence.ok and made.evidence.worst.relative < 1e-4
    reference = module(example).detach().numpy()
    (got,) = made.graph.run([images[:1]])
    assert np.abs(got - reference).max() < 1e-4 * (reference.max() - reference.min())
    saved = made.save(tmp_path / "legal.onnx")
    again = porter.load(saved)
    assert porter.check(again, "mlu270").ok
    assert all(op.origin.known for op in again.ops())
    assert again.inputs[0].shape == (1, 3, size, size)
