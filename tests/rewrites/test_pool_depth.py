# SPDX-License-Identifier: Apache-2.0
"""Pools of volumes by pools of images."""

from typing import Any

import numpy as np
import torch
from harness import check, noise, refuse
from hypothesis import given, settings
from test_pool import pools

import porter


@settings(max_examples=12)
@given(pools(3, average=False))
def test_max(case: tuple[str, Any, dict[str, Any]]) -> None:
    kind, x, attrs = case
    made = check("max_pool3d_to_pool2d", kind, [x], **attrs)
    assert {op.kind for op in made.ops} <= {"reshape", "max_pool2d"}
    assert sum(op.kind == "max_pool2d" for op in made.ops) <= 2


@settings(max_examples=12)
@given(pools(3, average=True))
def test_average(case: tuple[str, Any, dict[str, Any]]) -> None:
    kind, x, attrs = case
    if attrs["divisor_override"] is not None:
        refuse("avg_pool3d_to_pool2d", kind, [x], "the divisor is not the size of the window", **attrs)
    else:
        check("avg_pool3d_to_pool2d", kind, [x], of=np.abs(x).max(), **attrs)


def test_dilation() -> None:
    attrs: dict[str, Any] = {"kernel": (2, 3, 2), "stride": (1, 2, 1), "padding": ((1, 1), (0, 0), (1, 1)),
                             "dilation": (2, 1, 3), "ceil_mode": False}  # fmt: skip
    check("max_pool3d_to_pool2d", "max_pool3d", [noise(2, 3, 6, 7, 6)], **attrs)


def test_an_axis_that_is_not_pooled_costs_nothing() -> None:
    attrs: dict[str, Any] = {"kernel": (1, 2, 2), "stride": (1, 2, 2), "padding": ((0, 0),) * 3, "dilation": (1, 1, 1),
                             "ceil_mode": False}  # fmt: skip
    made = check("max_pool3d_to_pool2d", "max_pool3d", [noise(1, 2, 3, 4, 4)], **attrs)
    assert [op.kind for op in made.ops] == ["reshape", "max_pool2d", "reshape"]


def test_refuses() -> None:
    attrs: dict[str, Any] = {"kernel": (1, 1, 1), "stride": (1, 1, 1), "padding": ((0, 0),) * 3, "ceil_mode": False}
    empty = noise(0, 2, 3, 4, 4)
    refuse("max_pool3d_to_pool2d", "max_pool3d", [empty], "no elements", dilation=(1, 1, 1), **attrs)
    more: dict[str, Any] = {"count_include_pad": True, "divisor_override": None}
    refuse("avg_pool3d_to_pool2d", "avg_pool3d", [empty], "no elements", **attrs, **more)
    whole = noise(1, 2, 3, 4, 4, dtype="int32")
    refuse("avg_pool3d_to_pool2d", "avg_pool3d", [whole], "not floating point", **attrs, **more)


def test_a_device_without_volumes(tmp_path: Any) -> None:
    path = tmp_path / "toy.toml"
    head = '[target]\nname = "toy"\nclosed = true\n[runtime]\nframework = "toy"\ndtypes = ["float32"]\n'
    path.write_text(head + "[ops.reshape]\n[ops.max_pool2d]\n[ops.avg_pool2d]\n")
    net = torch.nn.Sequential(torch.nn.MaxPool3d(3, 2, 1), torch.nn.AvgPool3d(2, ceil_mode=True))
    made = porter.rewrite(net, path, {"x": (1, 2, 9, 9, 9)})
    assert made.ok and made.evidence is not None and made.evidence.ok
