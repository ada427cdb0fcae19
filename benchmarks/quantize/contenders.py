# SPDX-License-Identifier: Apache-2.0
"""Who is compared: every quantizer with its default and with its best settings, each in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["CONTENDERS", "ENVIRONMENTS", "Contender", "Environment", "prepare"]

Width = Literal["int8", "int16", "w8a16"]
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Environment:
    """Where a peer is installed: a virtual environment ``.venv-peers/NAME`` with these requirements, or porter's own
    (no requirements)."""

    name: str
    requirements: tuple[str, ...] = ()
    package: str = ""

    @property
    def python(self) -> Path:
        return ROOT / ".venv-peers" / self.name / "bin" / "python" if self.requirements else Path(sys.executable)


#: torch is pinned where it is needed because this release installs as a CPU build from the default index.
ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("porter", package="porter-ml"),
        Environment("onnxruntime", package="onnxruntime"),
        Environment("nncf", ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0"), "nncf"),
        Environment("aimet", ("aimet-onnx==2.42.0", "torch==2.13.0"), "aimet-onnx"),
        Environment("quark", ("amd-quark==0.13", "torch==2.13.0", "onnxruntime==1.32.0"), "amd-quark"),
        Environment("esp-ppq", ("esp-ppq==1.3.12", "torch==2.13.0"), "esp-ppq"),
    )
}


@dataclass(frozen=True)
class Contender:
    """One quantizer with one choice of settings.

    Fields:
        peer: as the tables name it.
        environment: of :data:`ENVIRONMENTS`; its script is ``peers/with_SCRIPT.py``.
        width: int8 (weights and activations), int16 (both), w8a16 (int8 weights, int16 activations).
        kind: "default" is what its documentation's first example calls; "best" what it offers for more accuracy.
        label: the settings in words.
        settings: as its script reads them.
    """

    peer: str
    environment: str
    script: str
    width: Width
    kind: Literal["default", "best"]
    label: str
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """A file name."""
        return (
            f"{self.peer}-{self.width}-{self.kind}-{self.label}".lower()
            .replace(" ", "_")
            .replace(",", "")
            .replace("/", "_")
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _of(
    peer: str, environment: str, script: str, *rows: tuple[Width, Literal["default", "best"], str, dict[str, Any]]
) -> list[Contender]:
    return [Contender(peer, environment, script, width, kind, label, settings) for width, kind, label, settings in rows]


#: What the onnxruntime target's own keys ``passes`` and ``depthwise_input_per_channel`` make of the default.
_PORTER = "min-max, bias correction, depthwise inputs by channel where needed"

CONTENDERS = (
    *_of(
        "porter", "porter", "porter",
        ("int8", "default", _PORTER, {}),
        ("int8", "best", "mix", {"observer": "mix"}),
        ("int8", "best", "mean of the extremes", {"observer": "min_max(use_avg)"}),
        ("int16", "default", "min-max", {}),
        ("w8a16", "default", _PORTER, {}),
        ("w8a16", "best", "plain rounding", {"bias_correction": False}),
    ),
    *_of(
        "porter per tensor", "porter", "porter",
        ("int8", "default", "one scale for the input of a depthwise convolution", {"target": "one_scale.toml"}),
    ),
    *_of(
        "porter for mlu270", "porter", "porter",
        ("int8", "default", "per tensor", {"target": "mlu270"}),
        ("int8", "best", "bias correction", {"target": "mlu270", "bias_correction": True}),
        ("int8", "best", "per channel", {"target": "mlu270", "per_channel": True}),
        ("int16", "default", "per tensor", {"target": "mlu270"}),
    ),
    *_of(
        "onnxruntime", "onnxruntime", "onnxruntime",
        ("int8", "default", "min-max", {}),
        ("int8", "best", "per channel, percentile", {"per_channel": True, "calibrate_method": "Percentile"}),
        ("int8", "best", "per channel, entropy", {"per_channel": True, "calibrate_method": "Entropy"}),
        ("int16", "default", "min-max", {}),
        ("w8a16", "best", "per channel", {"per_channel": True}),
    ),
    *_of(
        "NNCF", "nncf", "nncf",
        ("int8", "default", "performance preset", {}),
        ("int8", "best", "mixed preset, bias correction", {"preset": "MIXED", "fast_bias_correction": False}),
    ),
    *_of(
        "NNCF per tensor", "nncf", "nncf",
        ("int8", "default", "one scale for the input of a depthwise convolution", {"per_tensor": True}),
    ),
    *_of(
        "AIMET", "aimet", "aimet",
        ("int8", "default", "min-max", {}),
        ("int8", "best", "equalized, tf_enhanced", {"equalize": True, "quant_scheme": "tf_enhanced"}),
        ("int16", "default", "min-max", {}),
        ("w8a16", "default", "min-max", {}),
    ),
    *_of(
        "Quark", "quark", "quark",
        ("int8", "default", "A8W8", {}),
        ("int8", "best", "per channel, equalized", {"per_channel": True, "equalize": True}),
        ("int16", "default", "Int16Spec", {}),
        ("w8a16", "default", "A16W8", {}),
    ),
    *_of(
        "esp-ppq", "esp-ppq", "esp_ppq",
        ("int8", "default", "ONNXRUNTIME platform", {}),
        ("int8", "best", "MSE, equalized, bias corrected",
         {"calib_algorithm": "mse", "equalization": True, "bias_correct": True}),
    ),
)  # fmt: skip


def prepare(environment: Environment) -> tuple[str, str]:
    """Install a peer where it is missing; its version, or "" and why there is none."""
    if environment.requirements and not environment.python.exists():
        folder = environment.python.parents[1]
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(environment.python), "-m", "pip", "install", "--quiet", *environment.requirements],
        ):  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return "", (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[-1]
    code = f"import importlib.metadata as m, json; print(json.dumps(m.version({environment.package!r})))"
    asked = subprocess.run([environment.python, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        return "", (asked.stderr.strip() or "failed").splitlines()[-1]
    return str(json.loads(asked.stdout)), ""
