# SPDX-License-Identifier: Apache-2.0
"""What the pages show is what porter has: every command parses, and those that a reader begins with run in a row."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from models import conv_net, model, save
from PIL import Image
from typer.main import get_command

from porter import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
PAGES += sorted((ROOT / "porter" / "explain").glob("PT*.md"))


def commands(page: Path) -> list[list[str]]:
    """The words of every ``$ porter ...`` line of a page."""
    lines = re.findall(r"^\$ (porter .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


SHOWN = [(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in commands(page)]
#: The commands of README.md that this module runs; the others train, search, or take a checkpoint.
RUN = {"check", "rewrite", "quantize", "run", "emit", "port", "debug"}


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[f"{page}: {' '.join(words)[:60]}" for page, words in SHOWN])
def test_a_command_that_is_shown_exists(page: str, words: list[str]) -> None:
    """Its options too, and nothing that it needs is missing. It is not run."""
    found = get_command(cli.app)
    name = "porter"
    while hasattr(found, "commands") and words and words[0] in found.commands:
        name, words = f"{name} {words[0]}", words[1:]
        found = found.commands[name.rpartition(" ")[2]]
    with found.make_context(name, list(words)) as context:
        assert context.command is found


def png(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The files that README.md speaks of, small."""
    legal = "net (float[1, 3, 8, 8] images) => (float[1, 2, 8, 8] out) { a = Conv (images, w1) \n out = Conv (a, w2) }"
    rng = np.random.default_rng(0)
    weights = {"w1": rng.standard_normal((4, 3, 1, 1), np.float32), "w2": rng.standard_normal((2, 4, 1, 1), np.float32)}
    save(conv_net(), tmp_path / "yolox_s.onnx")
    save(model(legal, weights=weights), tmp_path / "model.onnx")
    divided = legal.replace("(float[1, 2, 8, 8] out) {", "(float[1, 2, 8, 8] out, int64[4, n] picked) {")
    divided = divided.replace("}", "\n picked = NonZero (out) }")
    save(model(divided, weights=weights), tmp_path / "detector.onnx")
    (tmp_path / "images").mkdir()
    for i in range(4):
        png(tmp_path / "images" / f"{i}.png", i)
    np.save(tmp_path / "images.npy", rng.uniform(0, 1, (4, 3, 8, 8)).astype(np.float32))
    (tmp_path / "pre.toml").write_text("size = [8, 8]\nscale = 0.00392156862745098\n")
    (tmp_path / "mine.py").write_text("def mean_ap(predict):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def dump(folder: Path) -> None:
    """What a device's debugger would write of the quantized model: its input and its output."""
    x = np.random.default_rng(9).uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / "q8" / "model_int8.onnx")
    np.savez(folder / "dump_from_the_device.npz", images=x, out=session.run(None, {"images": x})[0])


def test_the_commands_of_the_readme_run_in_a_row(porter, desk):
    """Those for an ONNX file; 1 are findings, which small random networks have."""
    shown = [words for words in commands(ROOT / "README.md") if words[0] in RUN and "yolox_s.pth" not in words]
    assert {words[0] for words in shown} == RUN
    for words in shown:
        if "dump_from_the_device.npz" in words:
            dump(desk)
        code, out, err = porter(*words)
        assert code in (0, 1) and not err.startswith("PT"), (words, code, err)
        if "-o" in words:
            assert (desk / words[words.index("-o") + 1]).exists(), (words, out)
