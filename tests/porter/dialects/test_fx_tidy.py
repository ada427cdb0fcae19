# SPDX-License-Identifier: Apache-2.0
"""Permutations that undo each other are not captured."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from porter.dialects.fx import FxGraph  # noqa: E402


class Decode(torch.nn.Module):
    """Two writes through a permuted view, as YOLOX decodes."""

    def forward(self, x):
        y = (x + 1).permute(0, 2, 1)
        y[..., :2] = y[..., :2] * 2
        y[..., 2:4] = torch.exp(y[..., 2:4])
        return y


class Turns(torch.nn.Module):
    """Permutations that do not cancel, one that is taken twice, and a chain of three that does."""

    def forward(self, x):
        a, b = x.permute(1, 2, 0), x.permute(1, 2, 0)
        return a + b, x.permute(1, 2, 0).permute(1, 2, 0), x.permute(1, 2, 0).permute(1, 2, 0).permute(1, 2, 0) * 2


def run(module, shape):
    graph = FxGraph.capture(module, [("x", shape, "float32")])
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    wanted = module(torch.from_numpy(x))
    for got, want in zip(graph.run([x]), wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        assert np.array_equal(got, want.numpy())
    return [op.kind for op in graph.ops()]


def test_writes_through_a_view_permute_once():
    assert run(Decode(), (1, 6, 10)).count("permute") == 1


def test_only_what_cancels_goes():
    kinds = run(Turns(), (2, 3, 4))
    assert kinds.count("permute") == 2


def test_an_output_that_was_permuted_back_is_the_tensor_itself():
    class Back(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x).permute(1, 0).permute(1, 0)

    assert run(Back(), (3, 5)) == ["relu"]
