# SPDX-License-Identifier: Apache-2.0
"""Pooling."""

from typing import Any

import numpy as np
import reference
from harness import Around, apply, build, check, noise, refuse, with_specials
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.infer import infer
from porter.ops import Op, Value


@st.composite
def pools(draw: Any, n: int, average: bool, largest: int = 5) -> tuple[str, Any, dict[str, Any]]:
    kernel = tuple(draw(st.integers(1, largest)) for _ in range(n))
    attrs: dict[str, Any] = {
        "kernel": kernel,
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(n)),
        "padding": tuple((p, p) for p in (draw(st.integers(0, k // 2)) for k in kernel)),
        "ceil_mode": draw(st.booleans()),
    }
    if average:
        attrs["count_include_pad"] = draw(st.booleans())
        attrs["divisor_override"] = draw(st.sampled_from([None, None, 3])) if n > 1 else None
    else:
        attrs["dilation"] = (1,) * n
    x = noise(1, 2, *(draw(st.integers(6, 9)) for _ in range(n)), seed=draw(st.integers(0, 99)))
    return f"{'avg' if average else 'max'}_pool{n}d", x if average else with_specials(x), attrs


def _beyond(x: Any, attrs: dict[str, Any]) -> bool:
    """Whether ceil_mode adds a window."""
    floor = {**attrs, "ceil_mode": False}
    kind = f"{'avg' if 'count_include_pad' in attrs else 'max'}_pool{len(attrs['kernel'])}d"
    value = Value("x", x.shape, "float32")
    return infer(kind, [value], attrs) != infer(kind, [value], floor)


@settings(max_examples=60)
@given(st.integers(1, 3).flatmap(lambda n: pools(n, average=False)))
def test_max(case: tuple[str, Any, dict[str, Any]]) -> None:
    kind, x, attrs = case
    padded = any(p for pair in attrs["padding"] for p in pair)
    if attrs["ceil_mode"]:
        check("pool_ceil_to_floor", kind, [x], **attrs)
    else:
        refuse("pool_ceil_to_floor", kind, [x], "ceil_mode is off", **attrs)
    if padded:
        check("max_pool_padding_to_replicate", kind, [x], **attrs)
        refuse("max_pool_to_maximum", kind, [x], "padding", **attrs)
    else:
        refuse("max_pool_padding_to_replicate", kind, [x], "no padding", **attrs)
        if attrs["ceil_mode"] and _beyond(x, attrs):
            refuse("max_pool_to_maximum", kind, [x], "ceil_mode adds", **attrs)
        else:
            check("max_pool_to_maximum", kind, [x], **attrs)


@settings(max_examples=40)
@given(st.integers(1, 3), st.sampled_from([4, 5, 6, 7, 9, 13]), st.booleans(), st.integers(1, 3))
def test_large_kernels(n: int, k: int, same: bool, stride: int) -> None:
    pad = (k - 1) // 2 if same and k % 2 else 0
    attrs: dict[str, Any] = {
        "kernel": (k,) * (n - 1) + (3,),
        "stride": (stride,) * n,
        "padding": ((pad, pad),) * (n - 1) + ((1, 1),),
        "dilation": (1,) * n,
        "ceil_mode": False,
    }
    if n == 1:
        attrs.update(kernel=(k,), padding=((pad, pad),))
    x = with_specials(noise(1, 2, *(14,) * (n - 1), 14 if n == 1 else 6))
    fragment = check("max_pool_to_smaller_kernels", f"max_pool{n}d", [x], **attrs)
    assert all(max(op.attrs["kernel"]) <= 3 for op in fragment.ops)


MAX: dict[str, Any] = {
    "kernel": (5, 5), "stride": (1, 1), "padding": ((2, 2), (2, 2)), "dilation": (1, 1), "ceil_mode": False,
}  # fmt: skip


def test_large_kernels_refuse() -> None:
    x, rule = noise(1, 2, 9, 9), "max_pool_to_smaller_kernels"
    refuse(rule, "max_pool2d", [x], "above 3", **{**MAX, "kernel": (3, 3), "padding": ((1, 1), (1, 1))})
    refuse(rule, "max_pool2d", [x], "dilation", **{**MAX, "dilation": (2, 2)})
    refuse(rule, "max_pool2d", [x], "neither 0 nor half", **{**MAX, "padding": ((1, 1), (2, 2))})
    refuse(
        rule, "max_pool2d", [x], "ceil_mode", **{**MAX, "stride": (3, 3), "padding": ((0, 0),) * 2, "ceil_mode": True}
    )
    refuse("max_pool_padding_to_replicate", "max_pool2d", [x], "dilation", **{**MAX, "dilation": (2, 2)})
    wide = {**MAX, "kernel": (17, 1), "padding": ((0, 0),) * 2}
    refuse("max_pool_to_maximum", "max_pool2d", [noise(1, 1, 20, 2)], "above 16", **wide)


def test_indices() -> None:
    x = with_specials(noise(1, 2, 6, 6))
    check(
        "max_pool_without_indices", "max_pool2d_with_indices", [x], uses={"y1": 0}, want=_indexed(x), skip=(1,), **MAX
    )
    refuse("max_pool_without_indices", "max_pool2d_with_indices", [x], "indices are read", uses={"y1": 1}, **MAX)


def _indexed(x: Any) -> list[Any]:
    import torch

    v, i = torch.nn.functional.max_pool2d(torch.from_numpy(x), 5, 1, 2, return_indices=True)
    return [v.numpy(), i.numpy()]


@settings(max_examples=80)
@given(st.integers(1, 3).flatmap(lambda n: pools(n, average=True, largest=4)))
def test_average(case: tuple[str, Any, dict[str, Any]]) -> None:
    kind, x, attrs = case
    scale = np.abs(x).max() * (np.prod(attrs["kernel"]) / 3 if attrs["divisor_override"] else 1)
    padded = any(p for pair in attrs["padding"] for p in pair)
    beyond = attrs["ceil_mode"] and _beyond(x, attrs)
    counted = attrs["count_include_pad"] or attrs["divisor_override"] is not None
    if not attrs["ceil_mode"]:
        refuse("pool_ceil_to_floor", kind, [x], "ceil_mode is off", **attrs)
    elif not beyond:
        op, _ = build(kind, [x], attrs)
        check("pool_ceil_to_floor", kind, [x], want=reference.run_op(op, [x]), **attrs)
    if beyond:
        for rule in ("avg_pool_divisor_to_mul", "avg_pool_padding_to_pad", "avg_pool_to_conv"):
            if rule != "avg_pool_to_conv" or kind == "avg_pool2d":
                refuse(rule, kind, [x], "ceil_mode|divisor|padding", **attrs)
        return
    if attrs["divisor_override"] is not None or (padded and not attrs["count_include_pad"]):
        check("avg_pool_divisor_to_mul", kind, [x], of=scale, **attrs)
    else:
        refuse("avg_pool_divisor_to_mul", kind, [x], "size of the kernel already", **attrs)
    if padded and counted:
        check("avg_pool_padding_to_pad", kind, [x], of=scale, **attrs)
    else:
        refuse("avg_pool_padding_to_pad", kind, [x], "no padding|not counted", **attrs)
    if kind == "avg_pool2d":
        if padded and not counted:
            refuse("avg_pool_to_conv", kind, [x], "not counted", **attrs)
        else:
            check("avg_pool_to_conv", kind, [x], of=scale, **attrs)


def test_average_beyond_the_input() -> None:
    attrs: Any = {
        "kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "ceil_mode": True, "count_include_pad": True,
        "divisor_override": None,
    }  # fmt: skip
    refuse("pool_ceil_to_floor", "avg_pool2d", [noise(1, 1, 5, 5)], "smaller", **attrs)
    refuse("avg_pool_to_conv", "avg_pool2d", [noise(1, 5, 5)], "not .N, C, H, W.", **attrs)


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(SIZES, SIZES)
def test_adaptive_that_divides(size: tuple[int, int], factor: tuple[int, int]) -> None:
    x = noise(2, 3, size[0] * factor[0], size[1] * factor[1])
    for kind in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        check("adaptive_pool_to_pool", kind, [x], of=np.abs(x).max(), output_size=size)
    check("adaptive_pool_to_pool", "adaptive_avg_pool1d", [x[0]], of=np.abs(x).max(), output_size=size[1:])
    check("adaptive_pool_to_pool", "adaptive_avg_pool3d", [x], of=np.abs(x).max(), output_size=(1, *size))


@given(SIZES, SIZES)
def test_adaptive_by_slices(size: tuple[int, int], more: tuple[int, int]) -> None:
    x = noise(2, 3, size[0] + more[0], size[1] + more[1])
    for kind in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        check("adaptive_pool_to_slices", kind, [x], of=np.abs(x).max(), output_size=size)


def test_global() -> None:
    x = noise(2, 3, 5, 7)
    for kind in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        check("global_pool_to_reduction", kind, [x], of=np.abs(x).max(), output_size=(1, 1))


def test_adaptive_refuses() -> None:
    x = noise(1, 2, 5, 5)
    refuse("adaptive_pool_to_pool", "adaptive_avg_pool2d", [x], "does not divide", output_size=(2, 2))
    refuse("global_pool_to_reduction", "adaptive_avg_pool2d", [x], "output size is", output_size=(1, 5))
    refuse("adaptive_pool_to_slices", "adaptive_avg_pool2d", [noise(1, 1, 20, 20)], "100 windows", output_size=(10, 10))


@given(pools(1, average=False), pools(1, average=True))
def test_one_axis(maximum: Any, average: Any) -> None:
    for kind, x, attrs in (maximum, average):
        check("pool1d_to_pool2d", kind, [x], of=1 + np.abs(x[np.isfinite(x)]).max(), **attrs)
    check("pool1d_to_pool2d", "adaptive_avg_pool1d", [average[1]], of=9.0, output_size=(3,))


def test_asymmetric_padding_of_a_ceil_pool() -> None:
    """What pool_ceil_to_floor makes (uneven padding) is padded away exactly by the replicate rule."""
    x = with_specials(noise(1, 2, 8, 8))
    attrs: Any = {**MAX, "kernel": (3, 3), "stride": (2, 2), "padding": ((0, 0),) * 2, "ceil_mode": True}
    op, feeds = build("max_pool2d", [x], attrs)
    floor = apply("pool_ceil_to_floor", op)
    (made,) = floor.ops
    assert made.attrs["padding"] == ((0, 1), (0, 1))
    second = Op(made.kind, made.inputs, made.outputs, made.attrs, "p", op.origin)
    padded = apply("max_pool_padding_to_replicate", second, Around())
    np.testing.assert_array_equal(reference.run(padded, feeds)[0], reference.run_op(op, [x])[0])
