# SPDX-License-Identifier: Apache-2.0
"""A configuration that trains in seconds: which quadrant of a 16 x 16 image is bright, and how bright it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONFIG = '''
import os
import signal

import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self, wide=8):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
        )
        self.cls = nn.Conv2d(wide, 4, 2)
        self.size = nn.Conv2d(wide, 1, 2)

    def forward(self, img):
        x = self.body(img)
        return self.cls(x), self.size(x)


class Quadrants:
    """Image i is made from i alone."""

    def __init__(self, count, first=0):
        self.count, self.first = count, first

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(1000 + self.first + i)
        img = torch.rand(3, 16, 16, generator=generator) * 0.6
        label = int(torch.randint(4, (), generator=generator))
        size = float(torch.rand((), generator=generator))
        y, x = divmod(label, 2)
        img[:, y * 8:y * 8 + 8, x * 8:x * 8 + 8] += size * 0.5
        return {"img": img * 2 - 1, "label": label, "size": size, "index": self.first + i}


class Accuracy:
    def reset(self):
        self.seen = []

    def update(self, outputs, batch):
        cls = torch.as_tensor(outputs[0]).flatten(1)
        self.seen += zip(batch["index"].tolist(), (cls.argmax(1) == batch["label"]).tolist())

    def compute(self):
        assert len({i for i, _ in self.seen}) == len(self.seen)
        return {"accuracy": sum(hit for _, hit in self.seen) / len(self.seen), "count": float(len(self.seen))}

    def state(self):
        return self.seen

    def merge(self, states):
        for one in states:
            self.seen += one


def loss(outputs, batch):
    cls, size = outputs
    return {
        "cls": functional.cross_entropy(cls.flatten(1), batch["label"]),
        "size": functional.mse_loss(size.flatten(), batch["size"].float()),
    }


task_name = "quadrants"
ckpt_dir = CKPT
target = "x5"
device = "cpu"
model = Net
deploy_model = Net
deploy_inputs = dict(img=torch.zeros(1, 3, 16, 16))
output_names = ("cls", "size")
outputs = dict(int16_output=True)
metric = Accuracy
monitor = "accuracy"
data_loader = dict(dataset=lambda: Quadrants(64), batch_size=16, shuffle=True)
val_data_loader = dict(dataset=lambda: Quadrants(25, 5000), batch_size=8)
float_trainer = dict(
    optimizer=dict(type=torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4, no_decay=True),
    schedule=dict(type="cosine", warmup_epochs=1),
    num_epochs=4,
    ema=0.9,
)
calibration_trainer = dict(num_steps=4)
qat_trainer = dict(
    optimizer=dict(type=torch.optim.SGD, lr=0.001, momentum=0.9),
    schedule=dict(type="step", decay_epochs=(1,)),
    num_epochs=2,
)
'''


def write(folder: Path, *changes: tuple[str, str], extra: str = "", **names: Any) -> Path:
    """The configuration in a folder, with pieces of its text replaced, and names set at its end."""
    text = CONFIG.replace("CKPT", repr(str(folder / "runs")))
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    text += "".join(f"{name} = {value!r}\n" for name, value in names.items()) + extra
    path = folder / "quadrants.py"
    path.write_text(text, encoding="utf-8")
    return path
