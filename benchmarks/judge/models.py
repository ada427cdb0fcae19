# SPDX-License-Identifier: Apache-2.0
"""Whole models for the judges: small networks in the styles that people bring, exported to ONNX as torch exports them.

Nothing is cleaned up: Focus slices, in-place decoding, batch norms, Shape and Gather of a batch that was dynamic are
what a compiler meets. Weights are random by a fixed seed; batch norms have seen data, so that activations keep their
size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["MODELS", "export"]

SIZE = 64
OPSET = 13


def conv(ins: int, outs: int, k: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Module:
    layers = [nn.Conv2d(ins, outs, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(outs)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.down, self.up, self.act = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.act(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


def head(channels: int, classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def inverted(ins: int, act: Callable[[], nn.Module], gate: nn.Module | None = None) -> nn.Module:
    wide = ins * 4
    steps = [conv(ins, wide, 1, act=act()), conv(wide, wide, 3, groups=wide, act=act())]
    return Residual(nn.Sequential(*steps, *([gate] if gate else []), conv(wide, ins, 1)))


def mobilenet_v2() -> nn.Module:
    return nn.Sequential(conv(3, 16, 3, 2, act=nn.ReLU6()), inverted(16, nn.ReLU6), conv(16, 24, 3, 2), head(24))


def mobilenet_v3() -> nn.Module:
    gate = Gate(64, nn.Hardsigmoid())
    return nn.Sequential(conv(3, 16, 3, 2, act=nn.Hardswish()), inverted(16, nn.Hardswish, gate), head(16))


def resnet() -> nn.Module:
    block = Residual(nn.Sequential(conv(16, 16, act=nn.ReLU()), conv(16, 16)))
    return nn.Sequential(conv(3, 16, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1), block, nn.ReLU(), head(16))


class Focus(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
        return torch.cat(corners, 1)


class Yolo(nn.Module):
    """Focus, SiLU, SPP and a head that decodes boxes in place, as older YOLOX does."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(Focus(), conv(12, 16, act=nn.SiLU()), conv(16, 24, 3, 2, act=nn.SiLU()))
        self.mix = conv(96, 24, 1, act=nn.SiLU())
        self.boxes, self.scores, self.in_place = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 6, 1), in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.mix(torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1))
        out = torch.cat([self.boxes(x), self.scores(x).sigmoid()], 1)
        high, wide = out.shape[2:]
        ys, xs = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        grid = torch.stack((xs, ys), 2).view(1, -1, 2).to(out.dtype)
        out = out.flatten(2).permute(0, 2, 1)
        if self.in_place:
            out[..., :2] = (out[..., :2] + grid) * 4
            out[..., 2:4] = torch.exp(out[..., 2:4]) * 4
            return out
        return torch.cat([(out[..., :2] + grid) * 4, torch.exp(out[..., 2:4]) * 4, out[..., 4:]], -1)


class UNet(nn.Module):
    def __init__(self, up: str) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16, act=nn.ReLU()), conv(16, 32, 3, 2, act=nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 16, 2, 2) if up == "transpose" else None
        self.narrow, self.align = nn.Conv2d(32, 16, 1), up == "align"
        self.last = nn.Conv2d(32, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = self.b(a)
        if self.up is not None:
            b = self.up(b)
        else:
            b = F.interpolate(self.narrow(b), scale_factor=2.0, mode="bilinear", align_corners=self.align)
        return self.last(torch.cat([a, b], 1))


class Transformer(nn.Module):
    """Patches, one block of attention and MLP, a token that is pooled."""

    def __init__(self) -> None:
        super().__init__()
        width = 32
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.place = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.last = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        count, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(count, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        weights = ((q * (width // 4) ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(count, length, width))
        x = x + self.mlp(self.norm2(x))
        return self.last(x.mean(1))


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = conv(3, 16, 3, 2, act=nn.ReLU()), conv(8, 8, 3, groups=8, act=nn.ReLU())
        self.last = head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.stem(x).chunk(2, 1)
        x = torch.cat([one, self.branch(two)], 1)
        count, channels, high, wide = x.shape
        x = x.view(count, 2, channels // 2, high, wide).transpose(1, 2).reshape(count, channels, high, wide)
        return self.last(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2, act=nn.ReLU()), nn.AvgPool2d((32, 1)))
        self.lstm, self.last = nn.LSTM(16, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.lstm(self.stem(x).squeeze(2).permute(0, 2, 1))[0]).log_softmax(-1)


class Pyramid(nn.Module):
    """Nearest upsampling, and a head of anchors with five axes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16, 3, 4, act=nn.LeakyReLU(0.1)), conv(16, 32, 3, 2, act=nn.LeakyReLU(0.1))
        self.side, self.last = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 3 * 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        x = self.last(a + F.interpolate(self.side(self.b(a)), scale_factor=2.0, mode="nearest"))
        count, _, high, wide = x.shape
        return x.view(count, 3, 6, high, wide).permute(0, 1, 3, 4, 2).softmax(-1)


class Normed(nn.Module):
    """Group norm, instance norm and a mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.group, self.instance, self.last = (
            nn.GroupNorm(4, 16),
            nn.InstanceNorm2d(16, affine=True),
            nn.Conv2d(17, 4, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.elu(self.group(self.a(x)))
        x = F.mish(self.instance(self.b(x)))
        return self.last(torch.cat([x, x.mean(1, keepdim=True)], 1))


class Embedder(nn.Module):
    """A face embedding: PReLU, a global depthwise convolution, a unit vector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16, 3, 2, act=nn.PReLU(16)), conv(16, 16, 3, 2, act=nn.PReLU(16))
        self.last = nn.Conv2d(16, 16, 16, groups=16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.last(self.b(self.a(x))).flatten(1))


class Heads(nn.Module):
    """Boxes by a constant gather, classes by argmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = conv(3, 16, 3, 4, act=nn.ReLU()), nn.Conv2d(16, 8, 1)
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.stem(x))
        return x[:, self.order] * F.pad(x[:, 4:], (0, 0, 0, 0), mode="constant").clamp(-0.5, 0.75)


def super_resolution() -> nn.Module:
    return nn.Sequential(conv(3, 16, act=nn.PReLU()), nn.ReflectionPad2d(1), nn.Conv2d(16, 12, 3), nn.PixelShuffle(2))


def spotting() -> nn.Module:
    """Convolutions along time, as keyword spotters have."""
    return nn.Sequential(
        nn.Flatten(1, 2), nn.Conv1d(192, 16, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 8, 3, dilation=2),
        nn.Softplus(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "resnet": resnet,
    "yolox": lambda: Yolo(False),
    "yolox_in_place": lambda: Yolo(True),
    "unet_transpose": lambda: UNet("transpose"),
    "unet_bilinear": lambda: UNet("bilinear"),
    "unet_align_corners": lambda: UNet("align"),
    "transformer": Transformer,
    "shufflenet": Shuffle,
    "lstm": Recurrent,
    "pyramid": Pyramid,
    "norms": Normed,
    "face": Embedder,
    "gather_head": Heads,
    "super_resolution": super_resolution,
    "keyword_spotting": spotting,
}


def export(name: str, out: Path) -> None:
    """Write one of :data:`MODELS` as ONNX of opset 13; the yolox and pyramid models with a batch that was dynamic."""
    torch.manual_seed(0)
    model = MODELS[name]()
    x = torch.rand(1, 3, SIZE, SIZE)
    model.train()
    with torch.no_grad():
        for _ in range(8):
            model(torch.rand(4, 3, SIZE, SIZE))
    model.eval()
    options: dict[str, Any] = {"dynamic_axes": {"x": {0: "n"}}} if name in ("pyramid", "shufflenet") else {}
    torch.onnx.export(model, (x,), str(out), opset_version=OPSET, input_names=["x"], output_names=["y"], dynamo=False,
                      do_constant_folding=True, **options)  # fmt: skip
