# SPDX-License-Identifier: Apache-2.0
"""The same RetinaNet at half the width, 128 x 128, on the synthetic shapes: all stages in minutes on a CPU.

    porter train --stage float --config examples/retinanet_horizon/small.py

Objects are 11 to 62 pixels long, so the anchors are half as large as those for COCO.
"""

from __future__ import annotations

import functools

import torch

from examples.detection.data import Detection, RandomFlip, Remembered, collate
from examples.detection.data import preprocess as _preprocess
from examples.detection.metric import CocoMeanAP
from examples.detection.postprocess import Anchors, RetinaNetMultiStrideFilter
from examples.retinanet_horizon.losses import RetinaNetLoss
from examples.retinanet_horizon.retinanet import OUTPUTS, RetinaNet
from examples.yolox_mlu270.shapes import CLASSES, SIZE, Shapes

_ANCHORS = Anchors(base_sizes=(16, 32, 64, 128, 256))

task_name = "retinanet_shapes"
target = "x5"
seed = 0
device = "cpu"
ckpt_dir = "out/retinanet_horizon"


def model() -> RetinaNet:
    """Channels last: faster to train on a CPU, and the same numbers."""
    return RetinaNet(len(CLASSES), alpha=0.5, channels=32, stacked=2).to(memory_format=torch.channels_last)


deploy_model = model
deploy_inputs = {"img": torch.zeros(1, 3, SIZE, SIZE)}
output_names = OUTPUTS
outputs = {"int16_output": True}
loss = RetinaNetLoss(_ANCHORS)

_val = Remembered(Shapes("val"))
data_loader = {
    "dataset": lambda: Detection(Remembered(Shapes("train")), (RandomFlip(0.5),), limit=4000),
    "batch_size": 8,
    "shuffle": True,
    "collate_fn": collate,
    "drop_last": True,
}
val_data_loader = {"dataset": lambda: Detection(_val), "batch_size": 20, "collate_fn": collate}
calibration_data_loader = {"dataset": lambda: Detection(Shapes("calib")), "batch_size": 16, "collate_fn": collate}

host_filter = RetinaNetMultiStrideFilter(_ANCHORS, max_shape=(SIZE, SIZE))
post_process = host_filter.first
monitor = "mAP"
class_names = CLASSES
preprocess = functools.partial(_preprocess, size=(SIZE, SIZE))


def metric() -> CocoMeanAP:
    return CocoMeanAP(_val, host_filter)


float_trainer = {
    "optimizer": {"type": torch.optim.AdamW, "lr": 1.5e-3, "weight_decay": 0.05, "no_decay": True},
    "schedule": {"type": "cosine", "warmup_epochs": 0.4, "final": 0.02},
    "num_epochs": 8,
    # a rare image must meet the statistics of evaluation while there is still something to learn
    "freeze_bn_after": 6,
    "ema": 0.998,
    "clip_grad": 10.0,
}
calibration_trainer = {"num_steps": 8, "observer": "mix", "qat_mode": "fuse_bn"}
qat_trainer = {
    "optimizer": {"type": torch.optim.AdamW, "lr": 5e-4, "weight_decay": 0.05, "no_decay": True},
    "schedule": {"type": "cosine", "final": 0.02},
    "num_epochs": 2,
    "ema": 0.998,
    "clip_grad": 10.0,
    "qat_mode": "fuse_bn",
    # Adam's steps have the size of the rate whatever the gradient, and scales are of that size themselves
    "activation_scales": "fixed",
}
int_infer_trainer = {}
compile_cfg = {"name": "retinanet_shapes", "opset": 11}
