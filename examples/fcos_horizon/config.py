# SPDX-License-Identifier: Apache-2.0
"""FCOS on EfficientNet-B0, 512 x 512, COCO: the settings of Horizon's public FCOS-EfficientNetB0 configuration.

    porter train --stage float --config examples/fcos_horizon/config.py

It expects COCO 2017 in ./data/coco (train2017, val2017, annotations), and a machine with GPUs. For two CPU cores there
is small.py. The rate of 0.14 is for four processes of 24 images each.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from examples.detection.data import (
    AugmentHsv,
    CocoFolder,
    Detection,
    Pad,
    RandomCrop,
    RandomFlip,
    Resize,
    collate,
)
from examples.detection.data import preprocess as _preprocess
from examples.detection.metric import CocoMeanAP
from examples.detection.postprocess import FcosMultiStrideFilter
from examples.fcos_horizon.fcos import OUTPUTS, Fcos
from examples.fcos_horizon.losses import FcosLoss

_COCO = Path("data/coco")
_SIZE = (512, 512)

task_name = "fcos_efficientnetb0_mscoco"
target = "x5"
seed = 0

model = Fcos
deploy_model = Fcos
deploy_inputs = {"img": torch.zeros(1, 3, *_SIZE)}
output_names = OUTPUTS
outputs = {"int16_output": True}
loss = FcosLoss()


@functools.cache
def _source(split: str) -> CocoFolder:
    return CocoFolder(_COCO / f"{split}2017", _COCO / "annotations" / f"instances_{split}2017.json")


_augmentation = (
    Resize(_SIZE, ratio_range=(0.5, 2.0)),
    RandomCrop(_SIZE),
    Pad(_SIZE),
    RandomFlip(0.5),
    AugmentHsv(0.015, 0.7, 0.4),
)
data_loader = {
    "dataset": lambda: Detection(_source("train"), _augmentation),
    "batch_size": 24,
    "shuffle": True,
    "num_workers": 8,
    "pin_memory": True,
    "collate_fn": collate,
    "drop_last": True,
}
val_data_loader = {
    "dataset": lambda: Detection(_source("val"), (Resize(_SIZE), Pad(_SIZE))),
    "batch_size": 24,
    "num_workers": 8,
    "pin_memory": True,
    "collate_fn": collate,
}

host_filter = FcosMultiStrideFilter(threshold=-2.944, score_threshold=0.05, iou_threshold=0.6, max_shape=_SIZE)
post_process = host_filter.first
monitor = "mAP"
preprocess = functools.partial(_preprocess, size=_SIZE)


def metric() -> CocoMeanAP:
    return CocoMeanAP(_source("val"), host_filter)


float_trainer = {
    "optimizer": {
        "type": torch.optim.SGD,
        "lr": 0.14,
        "momentum": 0.937,
        "nesterov": True,
        "params": {"weight": {"weight_decay": 4e-5}},
    },
    "schedule": {"type": "cosine", "warmup_epochs": 2},
    "num_epochs": 300,
    "ema": True,
    "sync_bn": True,
}
calibration_trainer = {"num_steps": 10, "qat_mode": "fuse_bn"}
qat_trainer = {
    "optimizer": {
        "type": torch.optim.SGD,
        "lr": 0.001,
        "momentum": 0.9,
        "params": {"weight": {"weight_decay": 4e-5}},
    },
    "schedule": {"type": "step", "decay_epochs": [4]},
    "num_epochs": 10,
    "qat_mode": "fuse_bn",
}
int_infer_trainer = {}
compile_cfg = {"name": "fcos_effb0", "opset": 11}

# X5's own figure is of the same architecture with the vendor's trained weights, one thread.
published = {
    "source": "D-Robotics rdk_model_zoo, samples/vision/FCOS/README.md (FCOS-EfficientNetB0, 512 x 512, X5)",
    "milliseconds": 3.3,
}
