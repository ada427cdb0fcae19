# SPDX-License-Identifier: Apache-2.0
"""Costs of ops against hand-computed numbers and torch's own counter; the roofline; the two kinds of latency."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from porter.dialects.fx import FxGraph
from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.graph import Graph
from porter.latency import (
    Rates,
    compare,
    count,
    estimate,
    measure,
    peak_activation_bytes,
    rank_correlation,
)
from porter.target import Target


def capture(module: nn.Module, *shape: int) -> FxGraph:
    return FxGraph.capture(module, [("x", shape, "float32")])


class Small(nn.Module):
    """3 x 8 x 8 → convolution → norm → relu → residual → global mean → linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.fc = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).relu()
        return self.fc(self.depthwise(y + y).flatten(1))


@pytest.fixture(scope="module")
def small() -> FxGraph:
    return capture(Small(), 1, 3, 8, 8)


@pytest.mark.parametrize("dialect", ["fx", "onnx"])
def test_counts_by_hand(small: FxGraph, dialect: str) -> None:
    graph: Graph = small if dialect == "fx" else OnnxGraph.from_graph(small)
    counts = count(graph)
    by_kind = {c.op.kind: c for c in counts if not c.op.kind.startswith("conv")}
    conv, depthwise = (c for c in counts if c.op.kind == "conv2d")
    assert (conv.macs, conv.params) == (8 * 8 * 8 * 27, 8 * 27)
    assert (depthwise.macs, depthwise.params) == (8 * 4 * 4 * 9, 8 * 9 + 8)
    assert conv.activation_bytes == 4 * (3 * 64 + 8 * 64)
    assert conv.weight_bytes == 4 * 8 * 27
    linear = by_kind.get("linear") or by_kind["gemm"]
    assert (linear.macs, linear.params) == (128 * 10, 1290)
    assert (by_kind["relu"].macs, by_kind["relu"].activation_bytes) == (0, 4 * 2 * 8 * 64)
    assert by_kind["add"].activation_bytes == 4 * 3 * 8 * 64
    norm = by_kind["batch_norm"]
    assert (norm.params, norm.weights, norm.free, norm.activation_bytes) == (16, 32, True, 0)
    assert by_kind["flatten" if "flatten" in by_kind else "reshape"].free


def test_a_norm_that_cannot_be_folded_is_paid_for() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.bn(y) + y

    norm = next(c for c in count(capture(Twice(), 1, 3, 2, 2)) if c.op.kind == "batch_norm")
    assert not norm.free
    assert norm.activation_bytes == 2 * 4 * 16


def test_a_shared_parameter_counts_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    counts = count(capture(Shared(), 1, 4, 2, 2))
    assert [c.params for c in counts] == [16, 0]
    assert [c.macs for c in counts] == [64, 64]


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    layers: list[nn.Module] = []
    channels = start = draw(st.integers(1, 6))
    for _ in range(draw(st.integers(1, 4))):
        out = draw(st.integers(1, 6))
        kind = draw(st.sampled_from(["conv", "grouped", "depthwise", "transposed", "act", "norm"]))
        bias = draw(st.booleans())
        if kind == "conv":
            k = draw(st.sampled_from([1, 3]))
            layers.append(nn.Conv2d(channels, out, k, draw(st.sampled_from([1, 2])), k // 2, bias=bias))
        elif kind == "grouped":
            out = 2 * out
            layers += [nn.Conv2d(channels, out, 1, bias=bias), nn.Conv2d(out, out, 3, padding=1, groups=2, bias=bias)]
        elif kind == "depthwise":
            out = channels
            layers.append(nn.Conv2d(channels, out, 3, padding=1, groups=channels, bias=bias))
        elif kind == "transposed":
            layers.append(nn.ConvTranspose2d(channels, out, 2, 2, bias=bias))
        else:
            out = channels
            layers.append(nn.SiLU() if kind == "act" else nn.BatchNorm2d(channels))
        channels = out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    return nn.Sequential(*layers), (draw(st.integers(1, 2)), start, 8, 8)


@given(networks())
@settings(max_examples=25, deadline=None)
def test_counts_are_those_of_torch(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    module, shape = case
    module.eval()
    counts = count(capture(module, *shape))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(shape))
    assert 2 * sum(c.macs for c in counts) == counter.get_total_flops()
    assert sum(c.params for c in counts) == sum(p.numel() for p in module.parameters())


class Matrices(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bij,bjk->bik", x, x.transpose(1, 2))
        z = nn.functional.scaled_dot_product_attention(x, x, x)
        return y.matmul(x) + z


def test_matrix_products_by_hand() -> None:
    counts = count(capture(Matrices(), 2, 5, 7))
    macs = {c.op.kind: c.macs for c in counts if c.macs}
    first = 2 * 5 * 5 * 7
    assert sum(macs.values()) == first + first + 2 * first


def test_peak_memory_by_hand() -> None:
    class Skip(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.relu()  # x, y
            z = y.sigmoid()  # y, z: x has no later reader
            w = z.reshape(1, -1)  # z under another name
            return w.exp() + y.reshape(1, -1)  # y, z, exp; then y, exp, sum

    assert peak_activation_bytes(capture(Skip(), 1, 4, 5, 5)) == 3 * 400


def rates(**change: Any) -> Rates:
    return Rates(**{"name": "test", "dtype": "float32", "macs": 1e6, "bandwidth": 1e6, "overhead": 0.0, **change})


def test_roofline_takes_the_larger_of_both(small: FxGraph) -> None:
    conv_macs, conv_bytes = 13824, 4 * (3 * 64 + 8 * 64 + 216)
    made = estimate(small, rates())
    conv = next(c for c in made.costs if c.kind == "conv2d")
    assert (conv.seconds, conv.bound) == (pytest.approx(conv_macs / 1e6), "compute")
    assert next(c for c in made.costs if c.kind == "relu").bound == "memory"
    slow = next(c for c in estimate(small, rates(bandwidth=1e3)).costs if c.kind == "conv2d")
    assert (slow.seconds, slow.bound) == (pytest.approx(conv_bytes / 1e3), "memory")
    assert made.milliseconds == pytest.approx(1e3 * sum(c.seconds for c in made.costs))


def test_overhead_is_for_ops_that_cost_something(small: FxGraph) -> None:
    without = estimate(small, rates())
    paid = sum(c.seconds > 0 for c in without.costs)
    assert paid < len(without.costs)
    more = estimate(small, rates(overhead=0.5)).milliseconds
    assert more == pytest.approx(without.milliseconds + paid * 500)


def test_unknown_bandwidth_leaves_arithmetic_only(small: FxGraph) -> None:
    made = estimate(small, rates(bandwidth=0.0))
    assert made.milliseconds == pytest.approx(1e3 * made.macs / 1e6)


def test_the_rates_of_a_target() -> None:
    target = Target.load("mlu270")
    eight, sixteen = Rates.of_target(target, "int8"), Rates.of_target(target, "int16")
    assert eight.macs == 118e12 / 2, "measured before nominal"
    assert eight.notes == ()
    assert sixteen.macs == eight.macs / 2
    assert "half" in sixteen.notes[0]
    assert eight.bandwidth == 102.4e9


def test_weights_of_quantized_layers_are_narrow(small: FxGraph) -> None:
    made = estimate(small, Rates.of_target(Target.load("mlu270"), "int8"))
    conv, depthwise = (c for c in made.costs if c.kind == "conv2d")
    assert conv.weight_bytes == 216
    assert depthwise.weight_bytes == 4 * 80, "the MLU270 computes depthwise convolutions in float"


def test_a_target_without_rates_has_no_estimate() -> None:
    with pytest.raises(PorterError) as caught:
        Rates.of_target(Target.load("mlu220"), "int8")
    assert caught.value.code == "PT622"
    assert "mlu220" in caught.value.message
    assert caught.value.fix is not None and "--latency-from measured" in caught.value.fix


def test_measuring_says_where(small: FxGraph) -> None:
    found = measure(small, runs=5, budget=0.05)
    assert 0 < found.milliseconds <= found.median <= found.high
    assert "onnxruntime" in found.machine and "1 thread" in found.machine
    assert found.runs >= 5


def test_comparing_models_ranks_them(small: FxGraph) -> None:
    made = compare({"a": small, "b": small, "c": small}, rates())
    assert [row.model for row, _ in made.rows] == ["a", "b", "c"]
    assert made.correlation is None, "one estimate throughout orders nothing"
    assert len(made.to_json()["models"]) == 3


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),  # 1 - 6 * 2 / (4 * 15)
        ([1, 1, 2], [1, 2, 3], 0.8660254037844387),  # ranks 1.5, 1.5, 3 against 1, 2, 3
    ],
)
def test_rank_correlation_by_hand(first: list[float], second: list[float], rho: float) -> None:
    assert rank_correlation(first, second) == pytest.approx(rho)


def test_rank_correlation_needs_something_to_rank() -> None:
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(ValueError, match="3 values against 2"):
        rank_correlation([1, 2, 3], [1, 2])
