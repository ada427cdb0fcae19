# SPDX-License-Identifier: Apache-2.0
"""layer_norm and rms_norm from the means and roots that exporters write."""

from typing import Any

import numpy as np
from formula import Formula
from harness import noise
from hypothesis import given
from hypothesis import strategies as st


def _square(f: Formula, d: Any, form: int) -> Any:
    return (f("mul", d, d), f("square", d), f("pow", d, 2.0))[form % 3] if form < 3 else f("pow", d, 2.0)


def _over(f: Formula, d: Any, s: Any, form: int) -> Any:
    """d / sqrt(s) in the forms of exporters."""
    if form == 0:
        return f("div", d, f("sqrt", s))
    if form == 1:
        return f("mul", d, f("rsqrt", s))
    if form == 2:
        return f("mul", f("reciprocal", f("sqrt", s)), d)
    if form == 3:
        return f("mul", d, f("div", 1.0, f("sqrt", s)))
    if form == 4:
        return f("div", d, f("pow", s, 0.5))
    return f("mul", d, f("pow", s, -0.5))


def _params(f: Formula, y: Any, shape: tuple[int, ...], weight: bool, bias: bool, order: int) -> Any:
    if weight:
        w = noise(*shape, seed=7)
        y = f("mul", y, w) if order % 2 else f("mul", w, y)
    if bias:
        c = noise(*shape, seed=8)
        y = f("add", y, c) if order % 3 else f("add", c, y)
    return y


SHAPES = st.sampled_from([((2, 5), 1), ((2, 3, 8), 1), ((2, 4, 6), 2), ((1, 3, 4, 5), 2)])


@given(SHAPES, st.booleans(), st.booleans(), st.integers(0, 5), st.integers(0, 4), st.integers(0, 5), st.booleans())
def test_layer_norm(
    shape: Any, weight: bool, bias: bool, over: int, square: int, order: int, centred_twice: bool
) -> None:
    extents, count = shape
    axes = tuple(range(len(extents) - count, len(extents)))
    f = Formula()
    x = f.input(noise(*extents, scale=3))
    d = f("sub", x, f("mean", x, axes=axes, keepdim=True))
    again = f("sub", x, f("mean", x, axes=axes, keepdim=True)) if centred_twice else d
    if square == 4:
        var = f("var", x, axes=axes, keepdim=True, correction=0)
    else:
        var = f("mean", _square(f, again, square), axes=axes, keepdim=True)
    y = _over(f, d, f("add", var, 1e-5), over)
    y = _params(f, y, extents[-count:], weight, bias, order)
    of = 1 + np.abs(noise(*extents[-count:], seed=7)) if weight else None
    made = f.fuse("mean_to_layer_norm", y, of).ops
    assert [op.kind for op in made] == ["layer_norm"] and made[0].attrs["axes"] == axes
    assert [v is not None for v in made[0].inputs] == [True, weight, bias]


@given(SHAPES, st.booleans(), st.integers(0, 5), st.integers(0, 2), st.integers(0, 1))
def test_rms_norm(shape: Any, weight: bool, over: int, square: int, order: int) -> None:
    extents, count = shape
    axes = tuple(range(len(extents) - count, len(extents)))
    f = Formula()
    x = f.input(noise(*extents, scale=3))
    mean = f("mean", _square(f, x, square), axes=axes, keepdim=True)
    y = _params(f, _over(f, x, f("add", 1e-6, mean), over), extents[-count:], weight, False, order)
    made = f.fuse("mean_to_rms_norm", y).ops
    assert [op.kind for op in made] == ["rms_norm"] and (made[0].inputs[1] is not None) == weight


def _layer(f: Formula, x: Any, axes: tuple[int, ...] = (1,), keepdim: bool = True) -> tuple[Any, Any]:
    d = f("sub", x, f("mean", x, axes=axes, keepdim=True))
    return d, f("add", f("mean", f("mul", d, d), axes=axes, keepdim=keepdim), 1e-5)


def test_refusals_say_why() -> None:
    f = Formula()
    x = f.input(noise(4, 6))
    d, inside = _layer(f, x)
    y = f("div", d, f("sqrt", inside))
    f.refuse("mean_to_layer_norm", y, "no layer_norm in the model's own operators", lacks="layer_norm")
    f.refuse("mean_to_rms_norm", y, "the value is centred: it is a layer_norm")
    f.refuse("mean_to_layer_norm", f("mul", y, noise(4, 6)), r"the weight \(4, 6\) does not have the shape")
    f.refuse("mean_to_layer_norm", f("add", y, noise(4, 1)), r"the bias \(4, 1\) does not have the shape")
    columns, over = _layer(f, x, (0,))
    f.refuse("mean_to_layer_norm", f("div", columns, f("sqrt", over)), r"over the axes \(0,\), not over the last")
    other = f("sub", x, f("mean", f.input(noise(4, 6, seed=3)), axes=(1,), keepdim=True))
    f.refuse("mean_to_layer_norm", f("div", other, f("sqrt", inside)), "the squares are of another value")
    unbiased = f("add", f("var", x, axes=(1,), keepdim=True, correction=1), 1e-5)
    f.refuse("mean_to_layer_norm", f("div", d, f("sqrt", unbiased)), "divided by n - 1")
    mine = f("add", f("var", f.input(noise(4, 6, seed=4)), axes=(1,), keepdim=True, correction=0), 1e-5)
    f.refuse("mean_to_layer_norm", f("div", d, f("sqrt", mine)), "the variance is of another value")
    rms = f("div", x, f("sqrt", f("add", f("mean", f("square", x), axes=(1,), keepdim=True), 1e-5)))
    f.refuse("mean_to_layer_norm", rms, "nothing is centred: it is an rms_norm")
    f.refuse("mean_to_rms_norm", rms, "no rms_norm in the model's own operators", lacks="rms_norm")
    for rule in ("mean_to_layer_norm", "mean_to_rms_norm"):
        f.ignore(rule, f("div", x, f("sqrt", f("add", f("abs", x), 1.0))))
        f.ignore(rule, f("mul", x, noise(4, 6)))
    f.ignore("mean_to_layer_norm", f("add", x, noise(6)))


def test_a_square_matrix_whose_mean_drops_its_axes() -> None:
    """The broadcast of such a mean is along the wrong axis: no normalization."""
    f = Formula()
    x = f.input(noise(5, 5))
    d, inside = _layer(f, x, (1,), keepdim=False)
    f.refuse("mean_to_layer_norm", f("div", d, f("sqrt", inside)), "drops its axes")
