# SPDX-License-Identifier: Apache-2.0
"""Horizon X3, X5, J5 and nash-e: every limit of the vendor's list is tried on both sides.

The numbers are those of the vendor's list of ONNX operators, and no other: 7 is the largest kernel of X3, and so on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
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
    lstm,
    make,
    padded,
    pool,
    reduced,
    resize,
    shuffle,
    softmax,
    split,
    topk,
    unary,
    value,
)

import porter
from porter.errors import PorterError
from porter.ops import Op, Value
from porter.target import Target

TARGETS = {name: Target.load(name) for name in ("x3", "x5", "j5", "nash-e")}
N, H, U, X = "native", "host", "unknown", "unsupported"


def by_target(x3: str, x5: str, j5: str, *ops: Op) -> list[tuple[str, Op, str]]:
    return [
        (name, op, verdict) for op in ops for name, verdict in (("x3", x3), ("x5", x5), ("j5", j5)) if verdict != "-"
    ]


def conv_transpose_rows() -> list[tuple[str, Op, str]]:
    return [
        *by_target(N, N, N, deconv(), deconv(stride=4)),
        # X3: kernels 2 to 14, strides 2 and 4, stride_h <= stride_w, padding up to (k - 1) / 2
        *by_target(N, N, N, deconv(k=2, pad=0), deconv(k=14, stride=2, pad=2, x=(1, 8, 20, 20))),
        *by_target(H, "-", "-", deconv(k=15, pad=1, x=(1, 8, 20, 20)), deconv(k=(1, 2), pad=0), deconv(stride=3, k=3)),
        *by_target(N, N, N, deconv(stride=(2, 4))),
        *by_target(H, N, N, deconv(stride=(4, 2))),
        *by_target(N, "-", "-", deconv(k=5, pad=2)),
        *by_target(H, "-", "-", deconv(k=4, pad=2)),
        # X5 and J5: kernels up to 14 and not 1x1, strides up to 14 and not 1x1
        *by_target("-", H, H, deconv(k=15, pad=1, x=(1, 8, 20, 20)), deconv(k=1, pad=0), deconv(k=3, stride=1)),
        *by_target("-", N, N, deconv(k=14, stride=14, pad=0, x=(1, 8, 20, 20)), deconv(k=(1, 2), pad=0)),
        *by_target("-", H, H, deconv(k=14, stride=15, pad=0, x=(1, 8, 20, 20))),
        # odd stride: padding < k / s; even stride: padding <= k / s
        *by_target("-", N, N, deconv(k=3, stride=3, pad=0), deconv(k=5, stride=3, pad=1), deconv(k=4, stride=2, pad=2)),
        *by_target("-", H, H, deconv(k=3, stride=3, pad=1), deconv(k=6, stride=3, pad=2), deconv(k=4, stride=2, pad=3)),
        *by_target("-", N, N, deconv(output_padding=1)),
        *by_target("-", H, H, deconv(k=5, stride=3, output_padding=2)),
        *by_target(N, N, N, deconv(x=(1, 2048, 4, 4), out=2, k=2, pad=0)),
        *by_target(H, H, H, deconv(x=(1, 2049, 4, 4), out=2, k=2, pad=0)),
        *by_target(H, H, H, deconv(k=3, dilation=2)),
        *by_target("-", N, N, deconv(x=(128, 64, 4, 4))),
        *by_target("-", H, H, deconv(x=(129, 64, 4, 4))),
        # J5: the weight has at most 65535 elements; X5: what one phase of the result sees has at most 32767
        *by_target("-", N, H, deconv(x=(1, 64, 20, 20), out=64, k=4)),
        *by_target("-", N, N, deconv(x=(1, 64, 20, 20), out=63, k=4)),
        *by_target("-", N, "-", deconv(x=(1, 668, 4, 4), out=1, k=14, stride=2, pad=0)),
        *by_target("-", H, "-", deconv(x=(1, 669, 4, 4), out=1, k=14, stride=2, pad=0)),
    ]


CASES: dict[str, list[tuple[str, Op, str]]] = {
    "Conv, kernels": [
        *by_target(N, N, N, conv(k=7, pad=3), conv(k=(7, 1)), conv(k=(1, 7))),
        *by_target(H, N, N, conv(k=8), conv(k=(8, 1)), conv(k=(1, 8))),
        *by_target("-", N, N, conv(x=(1, 8, 40, 40), k=31)),
        *by_target("-", H, H, conv(x=(1, 8, 40, 40), k=(32, 1)), conv(x=(1, 8, 40, 40), k=(1, 32))),
    ],
    "Conv, channels": [
        *by_target(N, "-", "-", conv(x=(1, 4096, 4, 4), out=8), conv(x=(1, 8, 4, 4), out=4096)),
        *by_target(H, "-", "-", conv(x=(1, 4097, 4, 4), out=8), conv(x=(1, 8, 4, 4), out=4097)),
        *by_target(N, "-", "-", conv(x=(1, 4096, 4, 4), out=2, groups=2)),
        *by_target(H, "-", "-", conv(x=(1, 4098, 4, 4), out=2, groups=2)),
        *by_target(N, "-", "-", conv(x=(1, 2048, 9, 9), out=2, k=2, dilation=2)),
        *by_target(H, "-", "-", conv(x=(1, 2049, 9, 9), out=2, k=2, dilation=2)),
        *by_target("-", N, N, conv(x=(1, 8192, 4, 4), out=8), conv(x=(1, 8, 4, 4), out=8192)),
        *by_target("-", H, H, conv(x=(1, 8193, 4, 4), out=8), conv(x=(1, 8, 4, 4), out=8193)),
    ],
    "Conv, volume of a kernel": [
        *by_target(N, "-", "-", conv(x=(1, 2048, 4, 4), out=2, k=4)),
        *by_target(H, "-", "-", conv(x=(1, 2049, 4, 4), out=2, k=4)),
        *by_target("-", N, N, conv(x=(1, 4681, 7, 7), out=2, k=(7, 1))),
        *by_target("-", H, N, conv(x=(1, 4682, 7, 7), out=2, k=(7, 1)), conv(x=(1, 4369, 5, 5), out=2, k=(3, 5))),
        *by_target("-", H, H, conv(x=(1, 4096, 4, 4), out=2, k=4)),
    ],
    "Conv, stride, dilation, padding": [
        *by_target(N, N, N, conv(k=3, pad=1, stride=2), conv(x=(1, 8, 300, 300), stride=256)),
        *by_target(N, H, H, conv(x=(1, 8, 300, 300), stride=257)),
        *by_target(N, N, N, conv(k=3, pad=2, dilation=2)),
        *by_target(H, H, H, conv(k=3, pad=3, dilation=3)),  # X3: a power of two; 20 is no multiple of 3
        *by_target(N, H, H, conv(k=3, pad=2, dilation=2, stride=2)),
        *by_target(H, H, H, conv(k=3, pad=2, dilation=2, stride=4)),  # X3: 4 does not divide 2
        *by_target(N, N, N, conv(k=3, pad=4, dilation=(2, 4))),
        *by_target(H, N, N, conv(k=3, pad=4, dilation=(4, 2))),
        *by_target("-", N, N, conv(x=(1, 8, 48, 48), k=3, dilation=16)),
        *by_target("-", H, H, conv(x=(1, 8, 51, 51), k=3, dilation=17)),
        *by_target("-", H, H, conv(x=(1, 8, 21, 20), k=3, dilation=2), conv(x=(1, 8, 20, 21), k=3, dilation=2)),
        *by_target("-", N, N, conv(x=(1, 8, 4, 4), pad=256)),
        *by_target("-", H, H, conv(x=(1, 8, 4, 4), pad=257)),
        # the ARM CPU pads both ends alike: what the BPU does not take, and it neither, runs nowhere
        *by_target(N, N, N, conv(k=3, pad=((0, 1), (0, 1)))),
        *by_target(X, "-", "-", conv(k=9, pad=((0, 1), (0, 1)))),
        *by_target("-", X, X, conv(x=(1, 8, 40, 40), k=32, pad=((0, 1), (0, 1)))),
    ],
    "Conv of other ranks": [
        *by_target(X, X, X, conv(x=(1, 64, 20), k=3)),
        *by_target(X, N, N, conv(x=(1, 8, 4, 16, 16), k=3, pad=1)),
        *by_target(X, X, X, conv(x=(1, 8, 4, 16, 16), k=3, stride=3), conv(x=(1, 8, 4, 16, 16), groups=8, out=8)),
        *by_target("-", N, N, conv(x=(128, 8, 4, 16, 16))),
        *by_target("-", X, X, conv(x=(129, 8, 4, 16, 16))),
    ],
    "ConvTranspose": conv_transpose_rows(),
    "Gemm": [
        *by_target(N, N, N, linear(inside=4096, out=4096)),
        *by_target(U, N, N, linear(inside=8192)),
        *by_target(U, H, H, linear(inside=8193)),
        *by_target(H, H, H, linear(inside=16385)),
        *by_target(H, H, H, make("linear", (1, 7, 64), const(8, 64), None)),
    ],
    "MatMul": [
        *by_target(N, "-", "-", make("matmul", (5, 64), const(64, 8)), make("matmul", (3, 5, 64), const(64, 8))),
        *by_target(
            N,
            "-",
            "-",
            make("matmul", (1, 3, 5, 64), const(64, 8)),
            make("matmul", (2, 3, 5, 64), const(64, 8)),
        ),
        *by_target(
            H,
            "-",
            "-",
            make("matmul", (2, 1, 5, 64), const(64, 8)),
            make("matmul", (2, 5, 64), const(2, 64, 8)),
        ),
        *by_target(
            N,
            "-",
            "-",
            make("matmul", (1, 3, 5, 64), (1, 1, 64, 8)),
            make("matmul", const(1, 3, 5, 4), (1, 1, 4, 8)),
        ),
        *by_target(
            H,
            "-",
            "-",
            make("matmul", (1, 3, 5, 64), (1, 3, 64, 8)),
            make("matmul", const(1, 1, 5, 4), (1, 1, 4, 8)),
        ),
        *by_target("-", N, N, make("matmul", (1, 3, 5, 64), (1, 3, 64, 8)), make("matmul", (8192, 8), (8, 4))),
        *by_target("-", H, H, make("matmul", (8193, 8), (8, 4)), make("matmul", (4, 8), (8, 8193))),
        *by_target("-", H, H, make("matmul", (3, 5, 64), (64, 8))),  # one rank
        *by_target("-", N, N, make("matmul", (4096, 2, 3), (4096, 3, 2))),
        *by_target("-", H, H, make("matmul", (4097, 2, 3), (4097, 3, 2))),
        # the examples of the row: 11MK with HDKN, H1MK with HDKN, HDMK with H1KN, BHDMK with B11KN and with B1DKN
        *by_target("-", N, N, make("matmul", (1, 1, 5, 6), (3, 4, 6, 7)), make("matmul", (3, 4, 5, 6), (3, 1, 6, 7))),
        *by_target("-", H, H, make("matmul", (3, 1, 5, 6), (3, 4, 6, 7))),
        *by_target("-", N, N, make("matmul", (2, 3, 4, 5, 6), (2, 1, 1, 6, 7))),
        *by_target("-", H, H, make("matmul", (2, 3, 4, 5, 6), (2, 1, 4, 6, 7))),
    ],
    "Add, Sub, Mul, Div": [
        *by_target(N, N, N, binary("add"), binary("mul")),
        *by_target(H, N, N, binary("sub")),
        *by_target(N, N, N, unary("square")),
        *by_target(H, N, H, unary("square", (7,))),
        *by_target(H, N, N, binary("mul", IMAGE, Value.constant("c", np.zeros((1, 1, 1, 1), np.float32)))),
        *by_target(N, N, N, binary("add", IMAGE, (1, 64, 1, 1)), binary("mul", IMAGE, (1, 64, 1, 1))),
        *by_target(H, N, N, binary("add", IMAGE, (1, 1, 1, 1)), binary("add", IMAGE, const(1, 64, 1, 1))),
        *by_target(N, N, N, binary("mul", IMAGE, (1, 1, 1, 1)), binary("mul", IMAGE, const(1, 64, 1, 1))),
        *by_target(H, N, N, binary("mul", IMAGE, (1, 64, 20, 1)), binary("mul", (1, 64, 20, 1), (1, 64, 1, 20))),
        *by_target(H, N, N, binary("mul", (2, 8, 4, 4), (2, 8, 4, 4)), binary("mul", (1, 64, 20), (1, 64, 20))),
        *by_target(N, N, N, binary("add", (1, 2048, 4, 4), (1, 2048, 4, 4))),
        *by_target(H, N, N, binary("add", (1, 2049, 4, 4), (1, 2049, 4, 4))),
        *by_target(N, N, N, binary("div")),
        *by_target(H, N, H, binary("div", IMAGE, const(1, 64, 1, 1))),
        *by_target("-", H, H, binary("add", const(1, 64, 20, 20), const(1, 64, 20, 20))),
        # the first axis is not broadcast on J5
        *by_target("-", N, H, binary("add", (4, 8, 4, 4), (1, 8, 4, 4))),
        # rank 5: NHWD1 with N1WDC merges W and D; NHWD1 with N11DC merges nothing by J5's rule
        *by_target("-", N, N, binary("add", (2, 3, 4, 5, 1), (2, 1, 4, 5, 6))),
        *by_target("-", N, H, binary("add", (2, 3, 4, 5, 1), (2, 1, 1, 5, 6))),
        *by_target("-", N, H, binary("mul", (2, 3, 4, 5, 6, 7), (2, 3, 4, 5, 6, 7))),
        *by_target("-", X, X, binary("mul", (2, 1, 2, 1, 2, 1), (1, 2, 1, 2, 1, 2))),  # nor on the CPU: rank 6
        *by_target("-", N, H, binary("add", (7,), (7,))),
        # integers are no tensors of the BPU
        *by_target(H, H, H, binary("add", dtype="int64")),
    ],
    "comparisons, Max and Min": [
        *by_target(H, N, N, binary("maximum")),
        *by_target(H, N, H, binary("maximum", (1, 64, 20, 1), (1, 64, 1, 20))),
        *by_target(H, H, H, binary("minimum"), binary("gt"), binary("le"), binary("eq")),
        *by_target(H, H, H, binary("gt", (1, 64, 20, 1), (1, 64, 1, 20))),
        *by_target(H, H, H, binary("logical_and", dtype="bool"), binary("logical_or", dtype="bool")),
        *by_target(X, X, X, binary("logical_xor", dtype="bool")),
    ],
    "tables": [
        *by_target(N, N, N, unary("exp"), unary("leaky_relu", negative_slope=0.1), unary("clamp", min=0.0, max=6.0)),
        *by_target(
            H,
            N,
            N,
            unary("abs"),
            unary("log"),
            unary("elu", alpha=1.0),
            unary("hardsigmoid", alpha=0.2, beta=0.5),
        ),
        *by_target(
            H,
            N,
            H,
            unary("erf"),
            unary("round"),
            unary("sign"),
            unary("selu"),
            unary("softsign"),
            unary("acosh"),
        ),
        *by_target(N, N, N, unary("tanh", (1, 8, 32, 32)), unary("sqrt", (1, 8192, 1, 1))),
        *by_target(H, N, N, unary("tanh", (1, 8193, 1, 1)), unary("tanh", (2, 8, 4, 4)), unary("tanh", (1, 64))),
        # sigmoid: 8 x 32 x 32 is 8192 with W in steps of 8 and C of 4; 9 channels count as 12 or 32
        *by_target(N, N, N, unary("sigmoid", (1, 8, 32, 32)), unary("sigmoid", (1, 32, 16, 16))),
        *by_target(H, N, N, unary("sigmoid", (1, 9, 32, 32)), unary("sigmoid", (1, 8, 32, 33))),
        *by_target("-", N, N, unary("sigmoid", (4096, 2)), unary("sigmoid", (1,) * 10)),
        *by_target("-", N, H, unary("sigmoid", (4097, 2)), unary("sigmoid", (2, 65537))),
        *by_target("-", H, H, unary("sigmoid", (1,) * 11)),
        *by_target(N, N, N, binary("pow", IMAGE, const(1))),
        *by_target(H, H, H, binary("pow", IMAGE, const(1, 64, 1, 1))),
        *by_target(N, N, N, unary("relu")),
        *by_target(N, U, U, unary("relu", (1, 64))),
        *by_target(N, N, H, make("prelu", IMAGE, const(64))),
        *by_target(N, H, H, make("prelu", (1, 64), const(64))),
        *by_target(X, X, X, unary("isnan")),
    ],
    "pools": [
        *by_target(N, N, N, pool("avg_pool2d", k=7), pool("max_pool2d", k=7)),
        *by_target(H, N, N, pool("avg_pool2d", k=8), pool("max_pool2d", x=(1, 8, 70, 70), k=65)),
        *by_target(
            N,
            N,
            N,
            pool("max_pool2d", x=(1, 8, 70, 70), k=64),
            pool("avg_pool2d", x=(1, 8, 300, 300), stride=185),
        ),
        *by_target(H, N, N, pool("max_pool2d", x=(1, 8, 300, 300), stride=186)),
        *by_target(
            "-",
            N,
            N,
            pool("max_pool2d", x=(1, 1, 300, 300), k=256),
            pool("max_pool2d", x=(1, 1, 300, 300), stride=256),
        ),
        *by_target(
            "-",
            H,
            H,
            pool("max_pool2d", x=(1, 1, 300, 300), k=257),
            pool("max_pool2d", x=(1, 1, 300, 300), stride=257),
        ),
        *by_target("-", N, N, pool("avg_pool2d", x=(1, 1, 300, 300), k=(32, 256))),
        *by_target("-", H, N, pool("avg_pool2d", x=(1, 1, 300, 300), k=(33, 256)), pool("avg_pool2d", k=1, pad=0)),
        *by_target(X, X, X, pool("max_pool2d", dilation=2)),
        *by_target("-", N, N, pool("avg_pool2d", pad=255), pool("max_pool2d", pad=256)),
        *by_target("-", H, N, pool("avg_pool2d", pad=256)),
        *by_target("-", H, H, pool("avg_pool2d", pad=257), pool("max_pool2d", pad=257)),
        *by_target(N, N, N, make("adaptive_avg_pool2d", (1, 8, 64, 128), output_size=(1, 1))),
        *by_target(H, N, N, make("adaptive_avg_pool2d", (1, 8, 64, 129), output_size=(1, 1))),
        *by_target(N, H, H, make("adaptive_max_pool2d", (1, 1, 257, 8), output_size=(1, 1))),
        *by_target(N, N, N, make("adaptive_max_pool2d", (1, 1, 256, 256), output_size=(1, 1))),
        *by_target(H, "-", "-", make("adaptive_max_pool2d", (1, 1, 1025, 8), output_size=(1, 1))),
        *by_target(X, X, X, make("adaptive_avg_pool2d", IMAGE, output_size=(2, 2))),
    ],
    "reductions": [
        *by_target(N, N, N, reduced("mean", (2, 3))),
        *by_target(H, N, N, reduced("mean", (1,))),
        *by_target("-", H, H, reduced("mean", (1, 2)), reduced("mean", (1,), keepdim=False)),
        *by_target(H, N, N, reduced("sum", (2,)), reduced("sum", (2,), keepdim=False), reduced("amax", (2,))),
        *by_target(H, H, H, reduced("sum", (2, 3)), reduced("amax", (2,), keepdim=False)),
        *by_target(H, N, N, reduced("amax", (1,), (1, 8192))),
        *by_target(H, H, H, reduced("amax", (1,), (1, 8193)), reduced("amin", (1,)), reduced("prod", (1,))),
        *by_target("-", H, H, reduced("sum", (0,), (7,)), reduced("sum", (0,), (1,) * 6)),
        *by_target(N, N, N, argmax((1, 64, 4, 4))),
        *by_target(H, N, H, argmax((1, 65, 4, 4)), argmax((1, 8191, 4, 4))),
        *by_target(H, H, H, argmax((1, 8192, 4, 4)), argmax(IMAGE, axis=2), argmax((1, 64, 4), axis=1)),
        *by_target(H, N, N, argmax((1, 64, 4, 4), kind="argmin"), topk()),
        *by_target(H, H, H, topk(sorted_=False)),
    ],
    "Softmax": [
        *by_target(H, H, H, softmax(axis=1), softmax(axis=3), softmax((1, 64), axis=1)),
    ],
    "layout": [
        *by_target(N, N, N, cat(IMAGE, IMAGE)),
        *by_target(N, H, H, cat(IMAGE, IMAGE, axis=0)),
        *by_target(H, H, H, cat((1, 8, 9), (1, 8, 9))),
        *by_target(N, N, N, cat((1, 1024, 2, 2), (1, 1024, 2, 2))),
        *by_target(H, N, N, cat((1, 1024, 2, 2), (1, 1025, 2, 2))),
        *by_target(N, N, N, split(1, (32, 32)), make("chunk", IMAGE, chunks=2, axis=1)),
        *by_target(
            H,
            H,
            H,
            split(1, (31, 33)),
            split(0, (1, 1), (2, 8, 4, 4)),
            make("chunk", (1, 7, 2, 2), chunks=2, axis=1),
        ),
        *by_target(H, N, N, make("reshape", IMAGE, shape=(1, 64, 400)), make("permute", IMAGE, dims=(0, 2, 3, 1))),
        *by_target(H, H, H, make("reshape", IMAGE, shape=(1,) * 9 + (64, 400))),
        *by_target(H, N, N, make("expand", (1, 64, 1, 20), shape=IMAGE), make("repeat", IMAGE, repeats=(1, 1, 2, 1))),
        *by_target(H, H, H, make("expand", (1, 64, 1, 1), shape=IMAGE), make("repeat", IMAGE, repeats=(1, 1, 2, 2))),
        *by_target(N, N, N, padded(((0, 0), (0, 0), (1, 1), (1, 1)))),
        *by_target(X, N, N, padded(((0, 0), (1, 1), (0, 0), (0, 0)))),
        *by_target(H, H, H, padded(((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")),
        *by_target(H, N, N, make("index_select", IMAGE, const(3, dtype="int64"), axis=1)),
        *by_target(H, H, H, make("index_select", IMAGE, value("i", (3,), "int64"), axis=1)),
        *by_target(H, N, N, make("index_select", IMAGE, value("i", (3,), "int32"), axis=1)),
        *by_target(H, H, H, make("index_select", (1,) * 5, const(1, dtype="int64"), axis=1)),
        *by_target(N, N, N, shuffle(), shuffle("pixel_unshuffle")),
        *by_target(N, H, H, shuffle(x=(1, 12, 4, 4))),
        *by_target(X, X, X, padded(((0, 0), (0, 0), (-1, 0), (0, 0)))),
        *by_target(H, H, H, shuffle(factor=4), shuffle("pixel_unshuffle", factor=4)),
    ],
    "Resize": [
        *by_target(N, N, N, resize(), resize(size=(20, 40)), resize(size=(10, 10)), resize("linear", (33, 17))),
        *by_target(H, H, H, resize(size=(60, 60)), resize(size=(40, 20))),
        *by_target(H, H, H, resize("cubic", coordinates="half_pixel")),
        *by_target(X, X, X, resize("cubic", coordinates="align_corners"), resize("linear", antialias=True)),
        *by_target(X, X, X, resize(x=(1, 8, 20), size=(40,))),
    ],
    "GridSample": [
        *by_target(
            X,
            N,
            N,
            grid_sample(512, 512),
            grid_sample(1024, 256),
            grid_sample(mode="nearest", padding_mode="border"),
        ),
        *by_target(X, X, N, grid_sample(513, 512), grid_sample(720, 1024)),
        *by_target(X, X, X, grid_sample(721, 1024), grid_sample(1025, 8), grid_sample(mode="bicubic")),
        *by_target(X, X, X, grid_sample(padding_mode="reflection"), grid_sample(n=4097)),
    ],
    "LSTM": by_target(N, N, N, lstm(1)) + by_target(H, H, H, lstm(2)),
    "sizes": [
        *by_target(N, N, N, unary("clamp", (128, 8, 4, 4), min=0.0, max=6.0)),
        *by_target(H, N, N, unary("clamp", (129, 8, 4, 4), min=0.0, max=6.0)),
        *by_target("-", N, N, unary("clamp", (4096, 8, 4, 4), min=0.0, max=6.0)),
        *by_target("-", H, H, unary("clamp", (4097, 8, 4, 4), min=0.0, max=6.0)),
        *by_target("-", N, N, unary("clamp", (1, 65536, 4, 4), min=0.0, max=6.0)),
        *by_target("-", H, H, unary("clamp", (1, 65537, 4, 4), min=0.0, max=6.0)),
        *by_target("-", N, N, unary("clamp", (1, 256, 2048, 2048), min=0.0, max=6.0)),
        *by_target("-", H, H, unary("clamp", (2, 256, 2048, 2049), min=0.0, max=6.0)),
    ],
    "nowhere": [
        *by_target(
            X,
            X,
            X,
            make("nms", (9, 4), (9,), iou_threshold=0.5),
            make("einsum", (3, 4), (4, 5), equation="ij,jk->ik"),
        ),
        *by_target(X, H, X, binary("fmod")),
    ],
    "nash-e": [
        ("nash-e", conv(k=3, pad=1), N),
        ("nash-e", conv(x=(1, 8, 40, 40), k=32), U),
        ("nash-e", unary("sigmoid"), U),
        ("nash-e", argmax((1, 32767, 1, 1)), N),
        ("nash-e", argmax((1, 32768, 1, 1)), H),
        ("nash-e", grid_sample(), U),
    ],
}


@pytest.mark.parametrize(
    ("name", "op", "verdict"),
    [pytest.param(*case, id=f"{row}-{i}-{case[0]}") for row, cases in CASES.items() for i, case in enumerate(cases)],
)
def test_verdict(name: str, op: Op, verdict: str) -> None:
    judgement = TARGETS[name].judge(op)
    assert judgement.verdict == verdict, [str(reason) for reason in judgement.reasons]
    assert bool(judgement.reasons) is (verdict != N)


@pytest.mark.parametrize("name", ["x3", "x5", "j5"])
def test_every_limit_is_reached_by_a_case(name: str) -> None:
    """Each limit of the accelerator is broken by one of the cases: a limit that no op can break says nothing."""
    target = TARGETS[name]
    broken: set[tuple[str, str]] = set()
    for cases in CASES.values():
        for of, op, _ in cases:
            if of == name:
                texts = [reason.text for reason in target.judge(op).reasons]
                support = target.ops.get(op.kind)
                for limit in support.limits if support else ():
                    if any(limit.why in text for text in texts):
                        broken.add((op.kind, limit.why))
    seldom = {"conv3d", "gemm", "stack", "unbind", "softplus", "select"}
    every = {limit.why for op in target.ops.values() if op.kind not in seldom for limit in op.limits}
    assert every - {why for _, why in broken} == set()


def test_opting_in(tmp_path: Path) -> None:
    assert [reason.code for reason in TARGETS["x5"].judge(softmax()).reasons] == ["PT106"]
    assert [reason.code for reason in TARGETS["x5"].judge(softmax((1, 64))).reasons] == ["PT104", "PT201"]
    own = tmp_path / "mine.toml"
    own.write_text('[target]\nname = "mine"\nextends = "x5"\n[runtime]\nopted_in = ["softmax", "gt"]\n')
    mine = Target.load(own)
    assert mine.judge(softmax()).verdict == N
    assert mine.judge(softmax((1, 64))).verdict == H
    assert (mine.judge(binary("gt")).verdict, mine.judge(binary("lt")).verdict) == (N, H)
    own.write_text('[target]\nname = "mine"\nextends = "x5"\n[runtime]\nopted_in = ["cumsum"]\n')
    with pytest.raises(PorterError, match=r"mine\.toml:5.*cumsum|cumsum runs where it runs by default") as caught:
        Target.load(own)
    assert caught.value.where == f"{own}:5, runtime.opted_in[0]"


def relus(opset: int, outputs: int = 1, shape: tuple[int, ...] = IMAGE) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    nodes = [helper.make_node("Exp", ["x"], [f"y{i}"]) for i in range(outputs)]
    results = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, shape) for i in range(outputs)]
    graph = helper.make_graph(nodes, "g", [x], results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (relus(11), []),
        (relus(10), []),
        (relus(9), ["PT205"]),
        (relus(12), ["PT205"]),
        (relus(11, 32), []),
        (relus(11, 33), ["PT206"]),
        (relus(11, shape=(2, 3, 4, 4)), ["PT207"]),
        (relus(11, shape=(1, 3, 4)), ["PT207"]),
        (relus(13, 33, (2, 3)), ["PT205", "PT206", "PT207", "PT207"]),
    ],
)
def test_model_as_a_whole(model: onnx.ModelProto, found: list[str]) -> None:
    report = porter.check(model, "x5")
    assert [finding.code for finding in report.findings] == found
    assert report.ok is (not found)
    assert report.portable is (set(found) <= {"PT205"})  # a rewrite converts the opset
    assert all(op.verdict == N for op in report.ops)


def test_what_runs_on_the_host_does_not_stop_quantization(tmp_path: Path) -> None:
    """hb_mapper puts such an op on the CPU by itself; an opset that it does not read stops it."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 8, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 64))
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1), "w")
    shape = onnx.numpy_helper.from_array(np.array([1, 4, 64], dtype=np.int64), "shape")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Concat", ["r", "r"], ["y"], axis=1),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, shape])
    data = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    for opset, code in ((11, None), (12, "PT320")):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
        assert [op.verdict for op in porter.check(model, "x5").ops] == [N, N, H]
        if code is None:
            assert porter.quantize(model, "x5", str(tmp_path / "data.npy"), dtype="int8").ok
        else:
            with pytest.raises(PorterError, match="ONNX opset 12") as caught:
                porter.quantize(model, "x5", str(tmp_path / "data.npy"), dtype="int8")
            assert caught.value.code == code


@pytest.mark.parametrize("name", ["x3", "x5", "j5"])
def test_the_rules_of_quantization(name: str) -> None:
    table = TARGETS[name].quantization
    assert table is not None and table.symmetric and table.flow == "tensors"
    assert (table.scale, table.rounding, table.per_channel_axis) == ("absmax/-qmin", "half_up", 0)
    assert ("w8a16" in table.widths) is (name != "x3")
    assert not set(table.quantized_ops) & set(table.passive_ops)


def test_int16_is_per_op() -> None:
    for name in ("x5", "j5"):
        ops = TARGETS[name].ops
        for kind in ("matmul", "div", "avg_pool2d", "resize", "lstm"):
            assert ops[kind].quantized == ("int8",)
        for kind in ("add", "sigmoid", "max_pool2d", "reshape"):
            assert ops[kind].quantized == ()
    assert TARGETS["j5"].ops["pixel_shuffle"].quantized == ("int8",)
    assert TARGETS["x5"].ops["pixel_shuffle"].quantized == ()


@pytest.mark.parametrize("name", ["x3", "x5", "j5"])
def test_every_row_is_cited(name: str) -> None:
    target = TARGETS[name]
    assert target.closed
    for op in target.ops.values():
        assert "supported_op_list.md:" in op.source
        assert all("supported_op_list.md:" in limit.source for limit in (*op.limits, *op.host_limits))


@pytest.mark.parametrize("name", ["x3", "x5", "j5"])
def test_rows_without_a_kind_of_the_vocabulary(name: str) -> None:
    """The list is whole: what porter has no kind for has its row under the operator's own name."""
    verdicts = {
        "GlobalLpPool": H, "LpPool": H, "MaxRoiPool": H, "ReduceLogSum": H, "ReduceSumSquare": H, "ReverseSequence": H,
        "Hardmax": X, "Mean": X, "MeanVarianceNormalization": X, "QLinearConv": X, "Shrink": X, "Unique": X,
    }  # fmt: skip
    for operator, verdict in verdicts.items():
        support = TARGETS[name].ops[f"onnx:{operator}"]
        assert TARGETS[name].judge(unary(f"onnx:{operator}")).verdict == verdict
        assert support.certainty == "certain" and support.source
