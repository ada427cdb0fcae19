# SPDX-License-Identifier: Apache-2.0
"""Convolutions that are too large for a device, taken apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Around, Const, apply, build, check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st
from test_conv import _check, convolutions

import porter
from porter.registry import rules
from porter.rewrite import NotApplicable

PLAIN: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}


@st.composite
def large(draw: Any, n: int) -> tuple[str, list[Any], dict[str, Any]]:
    """A convolution whose kernel may be above 7."""
    groups = draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 9 if n < 3 else 4)) for _ in range(n)]
    dilation = [draw(st.integers(1, 2)) for _ in range(n)]
    size = [d * (k - 1) + draw(st.integers(1, 4)) for d, k in zip(dilation, kernel, strict=True)]
    attrs = {
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(n)),
        "padding": tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(n)),
        "dilation": tuple(dilation),
        "groups": groups,
    }
    seed = draw(st.integers(0, 99))
    bias = Const(noise(2 * groups, seed=seed)) if draw(st.booleans()) else None
    inputs = [noise(1, groups, *size, seed=seed), Const(noise(2 * groups, 1, *kernel, seed=seed + 1)), bias]
    return f"conv{n}d", inputs, attrs


@pytest.mark.parametrize(("rule", "size"), [("conv_kernel_to_sum_of_7", 7), ("conv_kernel_to_sum_of_3", 3)])
@given(st.integers(1, 3).flatmap(large))
def test_kernel_to_sum(rule: str, size: int, case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    kernel = inputs[1].data.shape[2:]
    if max(kernel) <= size:
        refuse(rule, kind, inputs, f"is not above {size}", **attrs)
        return
    if np.prod([-(-k // size) for k in kernel]) > 64:
        refuse(rule, kind, inputs, "are more than 64", **attrs)
        return
    fragment = _check(rule, kind, inputs, attrs)
    for op in fragment.ops:
        if op.kind == kind:
            taps = op.operands[1].shape
            assert taps is not None and max(taps[2:]) <= size


@given(st.integers(1, 3).flatmap(large))
def test_dilation_to_sum(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    kernel = inputs[1].data.shape[2:]
    if not any(k > 1 and d > 1 for k, d in zip(kernel, attrs["dilation"], strict=True)):
        refuse("conv_dilation_to_sum", kind, inputs, "there is no dilation", **attrs)
    elif np.prod(kernel) > 64:
        refuse("conv_dilation_to_sum", kind, inputs, "are more than 64", **attrs)
    else:
        fragment = _check("conv_dilation_to_sum", kind, inputs, attrs)
        convs = [op for op in fragment.ops if op.kind == kind]
        assert len(convs) == np.prod(kernel) and all(set(op.attrs["dilation"]) == {1} for op in convs)


def test_kernel_to_sum_of_31() -> None:
    attrs = {**PLAIN, "padding": ((16, 16), (0, 0))}
    inputs = [noise(1, 1, 33, 40), Const(noise(2, 1, 33, 3, seed=1)), Const(noise(2))]
    fragment = _check("conv_kernel_to_sum_of_31", "conv2d", inputs, attrs)
    assert [op.operands[1].shape for op in fragment.ops if op.kind == "conv2d"] == [(2, 1, 31, 3), (2, 1, 2, 3)]
    small = [noise(1, 1, 9, 9), Const(noise(1, 1, 9, 9)), None]
    refuse("conv_kernel_to_sum_of_31", "conv2d", small, "9x9 is not above 31", **PLAIN)


def test_kernel_to_sum_refuses() -> None:
    for size in (31, 7, 3):
        inputs = [noise(1, 1, 40, 40), noise(1, 1, 33, 33), None]
        refuse(f"conv_kernel_to_sum_of_{size}", "conv2d", inputs, "computed when the model runs", **PLAIN)
    many = [noise(1, 1, 25, 25), Const(noise(1, 1, 25, 25)), None]
    refuse("conv_kernel_to_sum_of_3", "conv2d", many, "81 blocks of 3 are more than 64", **PLAIN)


def test_a_block_is_not_taken_apart_again() -> None:
    """What could be done before the sum is not tried on each block: a plan would take minutes."""
    op, _ = build("conv2d", [noise(1, 1, 40, 40), Const(noise(1, 1, 33, 33)), None], {**PLAIN, "stride": (2, 2)})
    block = next(o for o in apply("conv_kernel_to_sum_of_31", op).ops if o.kind == "conv2d")
    for rule in ("conv_kernel_to_sum_of_7", "conv_stride_to_slice", "conv_stride_to_pixel_unshuffle"):
        with pytest.raises(NotApplicable, match="part of a larger kernel"):
            rules()[rule].apply(Around(), block, "again")


@given(convolutions(2), st.integers(2, 4))
def test_stride_to_pixel_unshuffle(case: tuple[str, list[Any], dict[str, Any]], s: int) -> None:
    kind, inputs, attrs = case
    plain = {**attrs, "stride": (s, s), "dilation": (1, 1)}
    fragment = _check("conv_stride_to_pixel_unshuffle", kind, inputs, plain)
    conv = fragment.ops[-1]
    assert conv.attrs["stride"] == (1, 1) and conv.operands[1].shape[2:] <= (2, 2)


def test_patches_become_one_point_convolution() -> None:
    inputs = [noise(1, 3, 8, 12), Const(noise(5, 3, 4, 4, seed=1)), Const(noise(5))]
    fragment = _check("conv_stride_to_pixel_unshuffle", "conv2d", inputs, {**PLAIN, "stride": (4, 4)})
    assert [op.kind for op in fragment.ops] == ["pixel_unshuffle", "conv2d"]
    assert fragment.ops[1].operands[1].shape == (5, 48, 1, 1)


def test_stride_to_pixel_unshuffle_refuses() -> None:
    rule, inputs = "conv_stride_to_pixel_unshuffle", [noise(1, 1, 8, 8), Const(noise(1, 1, 2, 2)), None]
    refuse(rule, "conv2d", inputs, r"stride is \(1, 1\)", **PLAIN)
    refuse(rule, "conv2d", inputs, r"stride is \(2, 1\)", **{**PLAIN, "stride": (2, 1)})
    refuse(rule, "conv2d", inputs, "dilation is", **{**PLAIN, "stride": (2, 2), "dilation": (2, 1)})
    run = [inputs[0], noise(1, 1, 2, 2), None]
    refuse(rule, "conv2d", run, "weight is computed", **{**PLAIN, "stride": (2, 2)})


@given(st.integers(1, 3).flatmap(convolutions))
def test_stride_to_slice(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    if set(attrs["stride"]) == {1}:
        refuse("conv_stride_to_slice", kind, inputs, "stride is 1", **attrs)
    else:
        _check("conv_stride_to_slice", kind, inputs, attrs)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_multiplier(n: int, channels: int, m: int, bias: bool) -> None:
    attrs = {"stride": (2,) * n, "padding": ((1, 1),) * n, "dilation": (1,) * n, "groups": channels}
    weight = Const(noise(m * channels, 1, *(3,) * n, seed=1))
    inputs = [noise(2, channels, *(5,) * n), weight, Const(noise(m * channels)) if bias else None]
    if m == 1:
        refuse("conv_multiplier_to_depthwise", f"conv{n}d", inputs, "one channel for each", **attrs)
        return
    fragment = _check("conv_multiplier_to_depthwise", f"conv{n}d", inputs, attrs)
    assert fragment.ops[-1].attrs["groups"] == m * channels
    if channels > 1:
        full = Const(noise(m * channels, channels, *(3,) * n))
        refuse(
            "conv_multiplier_to_depthwise",
            f"conv{n}d",
            [inputs[0], full, None],
            "not depthwise",
            **{**attrs, "groups": 1},
        )


@given(convolutions(3))
def test_conv3d_to_sum(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    fragment = _check("conv3d_to_conv2d_sum", kind, inputs, attrs)
    assert all(v.rank is not None and v.rank <= 4 for op in fragment.ops[:-1] for v in op.outputs)


def test_conv3d_refuses_a_long_kernel() -> None:
    inputs = [noise(1, 1, 65, 1, 1), Const(noise(1, 1, 65, 1, 1)), None]
    attrs = {"stride": (1,) * 3, "padding": ((0, 0),) * 3, "dilation": (1,) * 3, "groups": 1}
    refuse("conv3d_to_conv2d_sum", "conv3d", inputs, "65 taps along the depth are more than 64", **attrs)


@st.composite
def transposed(draw: Any, n: int, equal: bool) -> tuple[str, list[Any], dict[str, Any]]:
    kind, inputs, attrs = draw(convolutions(n, transposed=True))
    s = draw(st.integers(2, 3))
    stride = (s,) * n if equal else tuple(draw(st.integers(1, 3)) for _ in range(n))
    kernel = inputs[1].data.shape[2:]
    pads = [draw(st.integers(0, k)) for k in kernel]
    attrs |= {
        "stride": stride,
        "dilation": (1,) * n if equal else attrs["dilation"],
        "padding": tuple((p, p) for p in pads),
        "output_padding": tuple(draw(st.integers(0, max(s - 1, 0))) for s in stride),
    }
    return kind, inputs, attrs


@given(st.integers(1, 3).flatmap(lambda n: transposed(n, False)))
def test_transposed_to_conv(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    fragment = _check("conv_transpose_to_conv", kind, inputs, attrs)
    assert fragment.ops[-1].kind == kind.replace("_transpose", "")


@given(transposed(2, True))
def test_transposed_to_phases(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    _check("conv_transpose_to_phases", kind, inputs, attrs)


def test_transposed_refuses() -> None:
    attrs = {**PLAIN, "output_padding": (0, 0)}
    run = [noise(1, 1, 4, 4), noise(1, 1, 2, 2), None]
    refuse("conv_transpose_to_conv", "conv_transpose2d", run, "weight is computed", **attrs)
    rule, inputs = "conv_transpose_to_phases", [run[0], Const(noise(1, 1, 2, 2)), None]
    refuse(rule, "conv_transpose2d", inputs, r"stride is \(1, 1\)", **attrs)
    refuse(rule, "conv_transpose2d", inputs, r"stride is \(2, 1\)", **{**attrs, "stride": (2, 1)})
    refuse(rule, "conv_transpose2d", inputs, "dilation is", **{**attrs, "stride": (2, 2), "dilation": (2, 2)})


def test_asymmetric_padding_of_onnx() -> None:
    """Both rules with other padding at each end, which torch cannot say: the result of padding 0, cropped."""
    inputs = [noise(1, 2, 4, 3), Const(noise(2, 3, 4, 3, seed=1)), None]
    attrs = {**PLAIN, "stride": (2, 2), "output_padding": (1, 0), "padding": ((0, 2), (1, 0))}
    tensors = [torch.from_numpy(v) for v in (inputs[0], inputs[1].data)]
    whole = torch.conv_transpose2d(*tensors, None, stride=2, output_padding=(1, 0)).numpy()
    want = [whole[:, :, : whole.shape[2] - 2, 1:]]
    for rule in ("conv_transpose_to_conv", "conv_transpose_to_phases"):
        check(rule, "conv_transpose2d", inputs, want=want, of=20.0, **attrs)


class Patches(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 8, 16, 16)
        self.wide = torch.nn.Conv2d(8, 8, 3, padding=12, dilation=12)
        self.up = torch.nn.ConvTranspose2d(8, 4, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.up(self.wide(self.patch(x)))


def test_torch_model(tmp_path: Path) -> None:
    """Patches, an atrous convolution and an upsampling, for a device of kernels to 7, stride 2 and dilation 1."""
    path, limit = tmp_path / "small.toml", "max(kernel) <= 7 and max(stride) <= 2 and max(dilation) == 1"
    path.write_text(
        '[target]\nname = "small"\ntitle = "A test device"\nextends = "onnxruntime"\n\n[ops.conv2d]\n'
        f'limits = [{{ expr = "{limit}", why = "no more" }}]\n\n[ops.conv_transpose2d]\ndevice = "none"\n'
    )
    made = porter.rewrite(Patches(), path, {"x": (1, 3, 64, 64)})
    assert made.ok and made.evidence is not None and made.evidence.ok
    applied = {entry.rules[0] for entry in made.ledger.entries}
    assert applied == {"conv_stride_to_pixel_unshuffle", "conv_dilation_to_sum", "conv_transpose_to_phases"}


def test_weights_that_would_grow_too_large_are_refused() -> None:
    """A rule that fills a weight with zeros says how many there would be, before it makes them."""
    more = "is more than 16777216"
    point = Const(np.ones((4200, 1, 1, 1), np.float32))
    refuse("conv_groups_to_dense", "conv2d", [noise(1, 4200, 1, 1), point, None], more, **{**PLAIN, "groups": 4200})
    attrs = {"stride": (1,), "padding": ((0, 0),), "dilation": (2100,), "groups": 1}
    inputs = [noise(1, 64, 4300), Const(noise(64, 64, 3)), None]
    refuse("conv_dilation_to_dense", "conv1d", inputs, more, **attrs)
    wide = {"stride": (200, 200), "padding": ((0, 0), (0, 0))}
    for kind, rule, rest in (
        ("conv2d", "conv_stride_to_pixel_unshuffle", {}),
        ("conv_transpose2d", "conv_transpose_to_phases", {"output_padding": (0, 0)}),
    ):
        inputs = [noise(1, 21, 3, 3), Const(noise(21, 21, 1, 1)), None]
        refuse(rule, kind, inputs, more, **{**PLAIN, **wide, **rest})
    window = {"kernel": (9, 9), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    refuse("unfold_to_conv", "unfold", [noise(1, 64, 9, 9)], more, **window)
    refuse("pixel_unshuffle_to_conv", "pixel_unshuffle", [noise(1, 5, 30, 30)], more, factor=30, mode="CRD")
    refuse("pixel_shuffle_to_conv_transpose", "pixel_shuffle", [noise(1, 4500, 1, 1)], more, factor=30, mode="CRD")
