# SPDX-License-Identifier: Apache-2.0
"""Export one model of the catalogue; runs in the environment of requirements.txt:

    .venv-coverage/bin/python -m benchmarks.coverage.export NAME OUT.onnx

Weights are random by a fixed seed. Constant parameters (zeros of a residual's last gamma, layer scales of 1e-6) are
made random too and batch norms see data, so that every branch counts in the output and activations keep their size.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .catalogue import MODELS, Entry

CLASSES = 6
#: Batches that batch norms see, and their size: more for the detectors, whose last maps have nine cells.
SEEN, BATCH = 3, {"detector": 16}


def define_operators() -> None:
    """Declare the operators of torchvision whose compiled library is of another build than torch: they are traced, and
    written as ONNX operators, without being run natively."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define(
            "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
            "int sampling_ratio, bool aligned) -> Tensor"
        )
        library.impl("nms", _nms, "CPU")
        library.impl("roi_align", _roi_align, "CPU")
        KEPT.append(library)  # an operator lives as long as its library
        importlib.import_module("torchvision")
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            if hasattr(sys.modules[name], "_has_ops"):
                sys.modules[name]._has_ops = _present  # type: ignore[attr-defined]


KEPT: list[Any] = []


def _present() -> bool:
    return True


def _nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Boxes (N, 4), scores (N,): the indices that greedy suppression keeps, best first."""
    order = scores.argsort(descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = torch.maximum(boxes[best, :2], boxes[order, :2]), torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        order = order[shared / (areas[best] + areas[order] - shared) <= threshold]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


def _roi_align(
    features: torch.Tensor, rois: torch.Tensor, scale: float, high: int, wide: int, samples: int, aligned: bool
) -> torch.Tensor:
    """Features (N, C, H, W), regions (R, 5): what tracing needs, zeros of the result's shape."""
    return features.new_zeros(rois.shape[0], features.shape[1], high, wide)


def randomize(model: nn.Module) -> None:
    """Give constant parameters values that differ: biases around 0, scales around 1."""
    for name, parameter in model.named_parameters():
        flat = parameter.data.reshape(-1)
        if flat.numel() > 1 and bool((flat == flat[0]).all()):
            if name.endswith("bias") or (flat[0] == 0 and parameter.dim() != 1):
                parameter.data.normal_(0, 0.1)
            else:
                parameter.data.uniform_(0.5, 1.5)


def settle(model: nn.Module, images: Callable[[], Any]) -> None:
    """Let batch norms take the statistics of some random images; a network without any norm gets weights for which
    each layer's results have a variance of 1 (layer-sequential unit-variance initialization, arXiv:1511.06422)."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not any("Norm" in type(module).__name__ for module in model.modules()):
        hooks = [
            layer.register_forward_hook(_rescale)
            for layer in model.modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear))
        ]
        with torch.no_grad():
            model(images())
        for hook in hooks:
            hook.remove()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    with torch.no_grad():
        for _ in range(SEEN if norms else 0):
            model(images())
    for norm in norms:
        norm.eval()


def _rescale(layer: nn.Module, _inputs: Any, out: torch.Tensor) -> torch.Tensor:
    scale = 1 / out.std().clamp(min=1e-6)
    for parameter in layer.parameters(recurse=False):
        parameter.data *= scale
    return out * scale


class Detector(nn.Module):
    """A torchvision detector with an image (1, 3, H, W) as input and boxes, scores and labels as outputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.inner([x[0]])[0]
        return found["boxes"], found["scores"], found["labels"]


class Segmenter(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)["out"]
        return out


def build(entry: Entry) -> tuple[nn.Module, bool]:
    """The network in evaluation mode, and whether it takes a list of images."""
    if entry.group == "detector":
        from .detectors import DETECTORS

        return DETECTORS[entry.name]().eval(), False
    define_operators()
    if entry.group == "timm":
        import timm

        try:
            return timm.create_model(entry.name, num_classes=10, img_size=entry.size).eval(), False
        except TypeError:  # convolutions only: any size
            return timm.create_model(entry.name, num_classes=10).eval(), False
    import torchvision

    common: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
    if entry.group == "segmentation":
        return getattr(torchvision.models.segmentation, entry.name)(**common).eval(), False
    if "ssd" not in entry.name:
        common.update(min_size=entry.size, max_size=entry.size)
    return getattr(torchvision.models.detection, entry.name)(**common).eval(), True


def export(entry: Entry, out: Path) -> None:
    torch.manual_seed(0)
    model, listed = build(entry)
    size, batch = entry.size, BATCH.get(entry.group, 4)
    randomize(model)
    if listed:
        settle(model, lambda: list(torch.rand(batch, 3, size, size)))
    else:
        settle(model, lambda: torch.randn(batch, 3, size, size))
    if entry.name.startswith(("repvgg", "mobileone", "fastvit")) or entry.name == "yolov6_style":
        fuse(model)
    model = Detector(model) if listed else Segmenter(model) if entry.group == "segmentation" else model
    image = torch.rand(1, 3, size, size)
    options: dict[str, Any] = {"input_names": ["images"], "opset_version": entry.opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if entry.dynamo:
            torch.onnx.export(model, (image,), str(out), dynamo=True, external_data=False, verbose=False, **options)
        else:
            torch.onnx.export(model, (image,), str(out), dynamo=False, **options)


def fuse(model: nn.Module) -> None:
    """Join the branches of blocks that are trained with several and run with one."""
    for module in model.modules():
        for name in ("fuse", "reparameterize"):
            if module is not model and callable(getattr(module, name, None)):
                getattr(module, name)()
                break


def main() -> None:
    name, out = sys.argv[1:]
    torch.set_num_threads(1)
    export(next(entry for entry in MODELS if entry.name == name), Path(out))


if __name__ == "__main__":
    main()
