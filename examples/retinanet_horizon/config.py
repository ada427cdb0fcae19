# SPDX-License-Identifier: Apache-2.0
"""RetinaNet on VarGNetV2, 1024 x 1024, COCO: the settings of Horizon's public RetinaNet tutorial.

    porter train --stage float --config examples/retinanet_horizon/config.py

It expects COCO 2017 in ./data/coco (train2017, val2017, annotations), and a machine with GPUs. For two CPU cores there
is small.py. The tutorial starts from an ImageNet backbone: put one, with this project's names, at
./pretrained/vargnetv2.safetensors, and it is loaded; without it the training begins from nothing. The tutorial goes
from calibration straight to integers, and does not say how many images a batch or how many steps its calibration has:
batch sizes, the calibration's steps and the whole ``qat_trainer`` (a tenth of the float rate, as it advises) are ours.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from examples.detection.data import CocoFolder, Detection, Pad, RandomFlip, Resize, collate
from examples.detection.data import preprocess as _preprocess
from examples.detection.metric import CocoMeanAP
from examples.detection.postprocess import Anchors, RetinaNetMultiStrideFilter
from examples.retinanet_horizon.losses import RetinaNetLoss
from examples.retinanet_horizon.retinanet import OUTPUTS, RetinaNet

_COCO = Path("data/coco")
_SIZE = (1024, 1024)
_PRETRAINED = Path("pretrained/vargnetv2.safetensors")
#: 2 ** (level + 2) for the levels 3 to 7; three scales, three ratios.
_ANCHORS = Anchors(
    strides=(8, 16, 32, 64, 128),
    base_sizes=(32, 64, 128, 256, 512),
    scales=(1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
    ratios=(0.5, 1.0, 2.0),
    rounded=True,
)

task_name = "retinanet_vargnetv2_fpn_mscoco"
target = "x5"
seed = 0

model = RetinaNet
deploy_model = RetinaNet
deploy_inputs = {"img": torch.zeros(1, 3, *_SIZE)}
output_names = OUTPUTS
outputs = {"int16_output": True}
loss = RetinaNetLoss(_ANCHORS)


@functools.cache
def _source(split: str) -> CocoFolder:
    return CocoFolder(_COCO / f"{split}2017", _COCO / "annotations" / f"instances_{split}2017.json")


_fit = (Resize((800, 1024)), Pad(_SIZE))
data_loader = {
    "dataset": lambda: Detection(_source("train"), (RandomFlip(0.5), *_fit)),
    "batch_size": 4,
    "shuffle": True,
    "num_workers": 4,
    "pin_memory": True,
    "collate_fn": collate,
    "drop_last": True,
}
val_data_loader = {
    "dataset": lambda: Detection(_source("val"), _fit),
    "batch_size": 4,
    "num_workers": 4,
    "pin_memory": True,
    "collate_fn": collate,
}

host_filter = RetinaNetMultiStrideFilter(
    _ANCHORS, threshold=-2.944, score_threshold=0.05, iou_threshold=0.5, max_shape=_SIZE, candidates=1000, most=300
)
post_process = host_filter.first
monitor = "mAP"
preprocess = functools.partial(_preprocess, size=_SIZE)


def metric() -> CocoMeanAP:
    return CocoMeanAP(_source("val"), host_filter)


float_trainer = {
    "optimizer": {
        "type": torch.optim.SGD,
        "lr": 0.01,
        "momentum": 0.9,
        "params": {"weight": {"weight_decay": 5e-5}},
    },
    "schedule": {"type": "step", "warmup_epochs": 0.3, "decay_epochs": [8, 11]},
    "num_epochs": 12,
    "sync_bn": True,
}
if _PRETRAINED.is_file():
    float_trainer["converters"] = [
        {"type": "LoadCheckpoint", "path": str(_PRETRAINED), "allow_miss": True, "ignore_extra": True}
    ]
calibration_trainer = {"num_steps": 100, "observer": "mix", "qat_mode": "fuse_bn"}
qat_trainer = {
    "optimizer": {
        "type": torch.optim.SGD,
        "lr": 0.001,
        "momentum": 0.9,
        "params": {"weight": {"weight_decay": 5e-5}},
    },
    "schedule": {"type": "step", "decay_epochs": [1]},
    "num_epochs": 2,
    "qat_mode": "fuse_bn",
}
int_infer_trainer = {}
compile_cfg = {"name": "retinanet_vargnetv2", "opset": 11}
