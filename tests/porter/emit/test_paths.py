# SPDX-License-Identifier: Apache-2.0
"""Module paths: the checkpoint's where there is one, else derived, never shared by mistake."""

from __future__ import annotations

import numpy as np
import pytest
from emit_cases import rand
from emit_handmade import HandGraph

from porter.ops import Origin, Value
from porter.paths import RESERVED, module_paths, valid_path


def linear(g: HandGraph, x: Value, weight: Value, module: str | None = None, name: str = "") -> Value:
    (out,) = g.add("linear", x, weight, origin=Origin(module=module))
    if name:
        g.ops()[-1].name = name
    return out


def paths(g: HandGraph) -> list[str | None]:
    found = module_paths(g)
    return [found.get(op.outputs[0].name) for op in g.ops()]


def square(g: HandGraph, name: str) -> Value:
    return g.const(rand(3, 3), name)


def test_the_weights_name_decides() -> None:
    g = HandGraph(x=rand(2, 3))
    linear(g, g.inputs[0], square(g, "head.layers.0.weight"), "somewhere.else")
    assert paths(g) == ["head.layers.0"]


def test_shared_weights_share_the_path_and_other_attributes_do_not() -> None:
    g = HandGraph(x=rand(1, 3, 4, 4))
    weight = g.const(rand(3, 3, 1, 1), "conv.weight")
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    g.add("conv2d", g.inputs[0], weight, **attrs)
    g.add("conv2d", g.inputs[0], weight, **attrs)
    g.add("conv2d", g.inputs[0], weight, **{**attrs, "stride": (2, 2)}, origin=Origin(module="conv"))
    first, second, third = paths(g)
    assert (first, second) == ("conv", "conv")
    assert third not in (None, "conv")


@pytest.mark.parametrize(
    ("weight", "module", "name", "path"),
    [
        ("onnx::MatMul_12", "neck.fc", "", "neck.fc"),
        ("onnx::Conv_12", None, "/backbone/stem/conv/Conv", "backbone.stem.conv"),
        ("12", None, "Gemm_7", "Gemm_7"),
        ("w", None, "", "linear_0"),
        ("x.to.weight", "x.to", "", "x.to_"),
    ],
)
def test_names_without_a_path_are_derived(weight: str, module: str | None, name: str, path: str) -> None:
    g = HandGraph(x=rand(2, 3))
    linear(g, g.inputs[0], square(g, weight), module, name)
    assert paths(g) == [path]


def test_derived_paths_displace_none_and_lie_in_none() -> None:
    g = HandGraph(x=rand(2, 3))
    x = linear(g, g.inputs[0], square(g, "a"), "block")  # a functional call inside block, which has children
    x = linear(g, x, square(g, "b"), "block")
    x = linear(g, x, square(g, "block.fc.weight"))
    linear(g, x, square(g, "c"), "block.fc")
    found = paths(g)
    assert found == ["block.linear", "block.linear_2", "block.fc", found[3]]
    assert len(set(found)) == 4
    assert not any(a != b and str(b).startswith(f"{a}.") for a in found for b in found)


def test_a_weight_that_is_computed_is_no_module() -> None:
    g = HandGraph(x=rand(2, 3), w=rand(3, 3))
    linear(g, g.inputs[0], g.inputs[1])
    g.add("batch_norm", g.inputs[0], None, None, g.const(np.zeros(3, np.float32), "bn.running_mean"),
          g.const(np.ones(3, np.float32), "bn.running_var"), eps=1e-5)  # fmt: skip
    assert paths(g) == [None, "bn"]


def test_reserved_names_are_those_of_torch() -> None:
    import torch

    assert "forward" in RESERVED
    assert not valid_path("a..b")
    own = {name for name in dir(torch.nn.Module) if not name.startswith("_")} | {"training"}
    assert own <= RESERVED
