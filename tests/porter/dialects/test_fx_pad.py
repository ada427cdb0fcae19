# SPDX-License-Identifier: Apache-2.0
"""A pad as torch writes it, whichever axes it is of: torch itself pads the last ones of some ranks only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from porter.dialects.fx import FxGraph
from porter.ops import Op, Value
from porter.rewrite import Fragment

NUMPY = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("mode", list(NUMPY))
@pytest.mark.parametrize("pairs", [((1, 2),), ((0, 1), (1, 1)), ((1, 0), (0, 1), (1, 1)), ((0, 1), (0, 0))])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5), (1, 2, 2, 3, 4, 5)])
def test_pad_of_the_last_axes(shape, pairs, mode):
    """Held against numpy; one axis of five is what torch refuses as it is."""
    if len(pairs) > len(shape):
        pytest.skip("more axes than there are")
    padding = ((0, 0),) * (len(shape) - len(pairs)) + pairs
    graph = FxGraph.capture(torch.nn.ReLU(), [(None, shape, "float32")], source="net")
    relu = graph.ops()[0]
    wide = tuple(n + a + b for n, (a, b) in zip(shape, padding, strict=True))
    padded, out = Value("padded", wide, "float32"), Value("out", shape, "float32")
    ends = tuple(a + n for n, (a, _) in zip(shape, padding, strict=True))
    crop = {"axes": tuple(range(len(shape))), "starts": tuple(a for a, _ in padding), "ends": ends,
            "steps": (1,) * len(shape)}  # fmt: skip
    ops = [Op("pad", relu.inputs, (padded,), {"padding": padding, "mode": mode, "value": 0.0}),
           Op("slice", (padded,), (out,), crop)]  # fmt: skip
    graph.replace([(relu, Fragment(ops, (out,)))])
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    name = next(op.outputs[0].name for op in reversed(graph.ops()) if op.outputs[0].shape == wide)
    cropped, whole = graph.run([x], [name])
    np.testing.assert_array_equal(whole, np.pad(x, padding, mode=NUMPY[mode]))
    np.testing.assert_array_equal(cropped, x)
