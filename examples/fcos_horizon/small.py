# SPDX-License-Identifier: Apache-2.0
"""The same FCOS at half the width and depth, 128 x 128, on the synthetic shapes: all stages in minutes on a CPU.

porter train --stage float --config examples/fcos_horizon/small.py
"""

from __future__ import annotations

import functools

import torch

from examples.detection.data import Detection, RandomFlip, Remembered, collate
from examples.detection.data import preprocess as _preprocess
from examples.detection.metric import CocoMeanAP
from examples.detection.postprocess import FcosMultiStrideFilter
from examples.fcos_horizon.fcos import OUTPUTS, Fcos
from examples.fcos_horizon.losses import FcosLoss
from examples.yolox_mlu270.shapes import CLASSES, SIZE, Shapes

task_name = "fcos_shapes"
target = "x5"
seed = 0
device = "cpu"
ckpt_dir = "out/fcos_horizon"


def model() -> Fcos:
    """Channels last: faster to train on a CPU, and the same numbers."""
    return Fcos(len(CLASSES), width=0.5, depth=0.5, channels=32, stack=2, stacked=2).to(
        memory_format=torch.channels_last
    )


deploy_model = model
deploy_inputs = {"img": torch.zeros(1, 3, SIZE, SIZE)}
output_names = OUTPUTS
outputs = {"int16_output": True}
loss = FcosLoss()

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

host_filter = FcosMultiStrideFilter(max_shape=(SIZE, SIZE))
post_process = host_filter.first
monitor = "mAP"
class_names = CLASSES
preprocess = functools.partial(_preprocess, size=(SIZE, SIZE))


def metric() -> CocoMeanAP:
    return CocoMeanAP(_val, host_filter)


float_trainer = {
    "optimizer": {"type": torch.optim.AdamW, "lr": 2e-3, "weight_decay": 0.05, "no_decay": True},
    "schedule": {"type": "cosine", "warmup_epochs": 0.4, "final": 0.02},
    "num_epochs": 5,
    "ema": 0.998,
    "clip_grad": 10.0,
}
calibration_trainer = {"num_steps": 8, "qat_mode": "fuse_bn"}
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
compile_cfg = {"name": "fcos_shapes", "opset": 11}
