# SPDX-License-Identifier: Apache-2.0
"""Targets whose facts come from a compiler: Ethos-U, Rockchip, BM1684X, ncnn, ESP32-P4, K210; and targets by opset.

The numbers of Ethos-U are those of Vela's report of supported operators; the others were seen to compile or not.
"""

from __future__ import annotations

from typing import Any

import pytest
from ops import (
    IMAGE,
    argmax,
    binary,
    cat,
    const,
    conv,
    deconv,
    grid_sample,
    linear,
    make,
    padded,
    pool,
    reduced,
    resize,
    softmax,
    unary,
)  # fmt: skip

from porter.ops import Op
from porter.target import Target

NAMES = (
    "rk3588", "rk3566", "rv1106", "bm1684x", "ethos-u55", "ethos-u85", "ncnn", "esp32p4", "k210", "onnxruntime-opset11",
    "xgen-mobile",
)  # fmt: skip
TARGETS = {name: Target.load(name) for name in NAMES}
N, H, U, X = "native", "host", "unknown", "unsupported"
U55, U85 = "ethos-u55", "ethos-u85"


NMS = make("nms", (9, 4), (9,), iou_threshold=0.5)


def both(op: Op, u55: str, u85: str) -> list[tuple[str, Op, str]]:
    return [(U55, op, u55), (U85, op, u85)]


def step(start: int, axis: int) -> Op:
    return make("slice", IMAGE, axes=(axis,), starts=(start,), ends=(20,), steps=(2,))


CASES: list[tuple[str, Op, str]] = [
    # strides over 3 need dilation 1 and no padding; depthwise has none over 3
    *both(conv(stride=3, k=3, pad=1), N, N),
    *both(conv(stride=4, k=4), N, N),
    *both(conv(stride=4, k=3), H, N),  # a PAD in front of it is folded into it
    *both(conv(stride=4, k=3, pad=1), X, N),  # Vela fails on it
    *both(conv(stride=4, k=3, dilation=2), X, N),
    *both(conv(groups=64, out=64, stride=3), N, N),
    *both(conv(groups=64, out=64, stride=4), H, N),
    *both(conv(x=(1, 65536, 2, 2), out=1), N, N),
    *both(conv(x=(1, 65537, 2, 2), out=1), U, N),
    # transposed: strides 1x1 and 2x2; onnx2tf crops what is larger than SAME or VALID, and splits groups
    *both(deconv(k=2, pad=0), N, N),
    *both(deconv(k=4, pad=1), N, N),
    *both(deconv(k=5, pad=1), N, N),
    *both(deconv(k=3, stride=3, pad=0), H, N),
    *both(deconv(x=(1, 8, 1, 20), k=(1, 2), stride=(1, 2), pad=0), N, N),
    *both(deconv(x=(1, 8, 20, 20), k=(1, 2), stride=(1, 2), pad=0), H, N),
    *both(deconv(k=2, pad=0, groups=2), N, N),
    # windows: 256 high, 65536 in area; padding is none or that of SAME, and then an average is at most 8
    *both(pool("max_pool2d", x=(1, 1, 300, 300), k=256, pad=0), N, N),
    *both(pool("max_pool2d", x=(1, 1, 300, 300), k=(257, 1), pad=0), H, H),
    *both(pool("max_pool2d", x=(1, 1, 260, 300), k=(256, 257), pad=0), H, H),
    *both(pool("max_pool2d", dilation=2), X, X),
    *both(pool("max_pool2d", k=3, stride=2, pad=1), X, X),  # SAME pads 0 before and 1 after an even extent
    *both(pool("max_pool2d", k=5, stride=1, pad=2), N, N),
    *both(pool("max_pool2d", x=(1, 8, 21, 21), k=3, stride=2, pad=1), N, N),
    *both(pool("avg_pool2d", k=7, stride=1, pad=3), N, N),
    *both(pool("avg_pool2d", k=9, stride=1, pad=4), H, H),
    *both(pool("avg_pool2d", k=8, pad=4), X, X),
    *both(pool("avg_pool2d", k=9, pad=0), N, N),
    *both(pool("avg_pool2d", k=4, stride=4, pad=1), X, X),
    # reductions
    *both(argmax((1, 127, 4, 4)), X, X),  # Vela fails on what the quantizer makes of it
    *both(reduced("mean", (2, 3)), N, N),
    *both(reduced("mean", (2, 3), (2, 8, 4, 4)), H, H),
    *both(reduced("mean", (3,), (1, 2, 2, 4095)), N, N),
    *both(reduced("mean", (3,), (1, 2, 2, 4096)), H, H),
    *both(reduced("mean", (1,)), H, H),
    *both(reduced("mean", (1,), (1, 64, 1, 20)), H, H),
    *both(reduced("mean", (2, 3), (1, 1, 257, 256)), U, U),
    # resize: 2, 4, 8; with half-pixel centres 2
    *both(resize(size=(40, 40)), N, N),
    *both(resize(size=(160, 160)), N, N),
    *both(resize(size=(60, 60)), H, N),
    *both(resize(size=(320, 320)), H, N),
    *both(resize(size=(40, 80)), H, N),
    *both(resize("linear", (40, 40), coordinates="half_pixel"), N, N),
    *both(resize("linear", (80, 80), coordinates="half_pixel"), H, N),
    *both(resize("linear", (39, 39), coordinates="align_corners"), N, H),
    *both(resize("linear", (40, 40), coordinates="align_corners"), H, H),
    *both(resize("linear", (60, 60)), H, H),
    *both(resize("cubic", (40, 40)), X, X),  # it compiles, and computes zeros
    *both(softmax((1, 4, 255, 257)), N, N),
    *both(softmax((1, 4, 256, 256)), H, H),
    *both(unary("clamp", min=0.0, max=6.0), N, N),
    *both(unary("clamp", min=0.0, max=5.0), H, H),
    *both(step(0, 2), N, N),
    *both(step(0, 1), N, N),
    *both(step(0, 3), H, H),
    *both(padded(((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"), N, N),
    *both(padded(((0, 0), (0, 0), (1, 1), (1, 1)), mode="replicate"), H, H),
    *both(binary("gt"), H, H),
    *both(binary("add", dtype="int64"), H, H),
    *both(unary("leaky_relu", negative_slope=0.1), H, H),
    *both(grid_sample(), X, X),
    # what was seen to compile, and what was not tried
    *((name, conv(k=3, pad=1), N) for name in ("rk3588", "rk3566", "rv1106", "bm1684x", "ncnn", "esp32p4", "k210")),
    *((name, conv(x=(1, 8, 20, 20), k=9), U) for name in ("rk3588", "rk3566", "rv1106")),
    *((name, conv(groups=4), U) for name in ("rk3588", "rk3566", "rv1106")),
    *((name, conv(x=(1, 8, 20, 20), k=9), N) for name in ("bm1684x", "ncnn", "k210")),
    *((name, conv(x=(1, 8, 20, 20), k=17), U) for name in ("ncnn", "k210")),
    *((name, conv(groups=4), N) for name in ("bm1684x", "ncnn", "k210")),
    ("k210", conv(x=(1, 8, 20, 20), out=16, groups=8), X),
    ("k210", unary("clamp", min=0.0, max=6.0), X),
    ("k210", pool("max_pool2d", dilation=2), X),
    ("ncnn", step(0, 3), X),
    ("esp32p4", unary("asin"), X),
    ("rk3588", unary("exp"), H),
    ("rk3588", make("reshape", IMAGE, shape=(1, 64, 400)), U),
    ("rv1106", make("reshape", IMAGE, shape=(1, 64, 400)), N),
    ("rk3566", make("permute", IMAGE, dims=(0, 2, 3, 1)), H),
    ("rk3588", unary("hardswish"), N),
    ("rk3566", unary("hardswish"), U),
    *(
        (name, make("nms", (9, 4), (9,), iou_threshold=0.5), X)
        for name in ("rk3588", "bm1684x", "ncnn", "esp32p4", "k210")
    ),
    ("bm1684x", unary("gelu", approximate="none"), N),
    ("bm1684x", unary("selu"), X),
    ("bm1684x", unary("erf"), N),
    ("ncnn", step(0, 2), X),
    ("ncnn", make("slice", IMAGE, axes=(2,), starts=(2,), ends=(20,), steps=(1,)), N),
    ("ncnn", make("index_select", IMAGE, const(8, dtype="int64"), axis=1), X),
    ("esp32p4", conv(groups=64, out=64), N),
    ("esp32p4", conv(groups=4), X),
    ("esp32p4", conv(x=(1, 64, 20), k=3), N),
    ("esp32p4", conv(x=(1, 4, 8, 8, 8)), X),
    ("esp32p4", binary("add", (1,) * 4, (1,) * 4), N),
    ("esp32p4", binary("add", (1,) * 5, (1,) * 5), X),
    ("esp32p4", pool("max_pool2d", dilation=2), X),
    ("esp32p4", resize("cubic", (40, 40)), X),
    ("esp32p4", padded(((0, 0), (0, 0), (1, 1), (1, 1)), mode="circular"), X),
    ("k210", deconv(), X),
    ("k210", cat(IMAGE, IMAGE), N),
    ("k210", linear(), N),
    # by opset: 11 has no HardSwish (14), Gelu (20), LayerNormalization (17), GridSample (16)
    *(("onnxruntime-opset11", op, X) for op in (unary("hardswish"), unary("gelu", approximate="none"), grid_sample())),
    ("onnxruntime-opset11", conv(k=3), N),
    ("xgen-mobile", conv(k=3), U),
]


@pytest.mark.parametrize(("name", "op", "verdict"), CASES, ids=[f"{i}-{name}" for i, (name, _, _) in enumerate(CASES)])
def test_verdict(name: str, op: Op, verdict: str) -> None:
    judgement = TARGETS[name].judge(op)
    assert judgement.verdict == verdict, [str(reason) for reason in judgement.reasons]


def test_what_was_measured_names_a_version() -> None:
    for name, target in TARGETS.items():
        for op in target.ops.values():
            if op.certainty == "measured":
                assert any(character.isdigit() for character in op.source), (name, op.kind)


def test_measured_lies_between_certain_and_likely(tmp_path: Any) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[target]\nname = "own"\nextends = "rk3588"\ninherited_certainty = "likely"\n')
    assert Target.load(own).ops["conv2d"].certainty == "likely"
    own.write_text('[target]\nname = "own"\nextends = "x5"\ninherited_certainty = "measured"\n')
    assert {op.certainty for op in Target.load(own).ops.values()} == {"measured", "likely"}


@pytest.mark.parametrize("name", NAMES)
def test_static_shapes_and_lists(name: str) -> None:
    target = TARGETS[name]
    assert not target.closed  # what these do not name is unknown, never refused
    assert target.runtime.static_shapes is (name != "onnxruntime-opset11")
    quantization = target.quantization
    if quantization is not None:
        assert not set(quantization.quantized_ops) & set(quantization.passive_ops)
