# SPDX-License-Identifier: Apache-2.0
"""The generated source: every kind, the state dict's keys, readability, and what cannot be said."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from emit_cases import CASES, Case, rand
from emit_handmade import HandGraph

from porter.emit.codegen import Generated, generate, load_generated, validate_generated
from porter.emit.expressions import EXPRESSIONS
from porter.emit.python35 import newer_than_35
from porter.errors import PorterError
from porter.ops import KINDS, Origin, Value

#: Kinds with no expression, each for a reason that the error gives.
INEXPRESSIBLE = {"masked_select", "nonzero", "nms", "roi_align", "random", "if", "loop", "scan", "lstm", "gru", "rnn"}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_kind_gives_the_values_of_torch(case: Case) -> None:
    worst = validate_generated(generate(case.graph), [(case.inputs, case.expected)], tolerance=1e-6)
    assert len(worst) == len(case.expected)


def test_every_kind_is_tested_or_refused() -> None:
    covered = {op.kind for case in CASES for op in case.graph.ops()}
    missing = set(KINDS) - INEXPRESSIBLE - {"identity"} - set(EXPRESSIONS)
    assert not missing
    assert not set(EXPRESSIONS) & INEXPRESSIBLE
    assert set(EXPRESSIONS) - covered <= {"conv_transpose3d", "max_pool3d", "size", "avg_pool1d", "avg_pool3d",
                                          "adaptive_avg_pool1d", "adaptive_avg_pool3d"}  # fmt: skip


def conv_attrs(**changed: object) -> dict[str, object]:
    return {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, **changed}


def small_detector() -> HandGraph:
    """stem (conv, bn, silu written as x * sigmoid(x)), a ModuleList with numbers, a shared head, a grid."""
    g = HandGraph(images=rand(1, 3, 8, 8))

    def weight(name: str, *shape: int) -> Value:
        return g.const(rand(*shape), name)

    at = Origin("/home/someone/net.py", 12, "forward", "backbone.stem")
    (x,) = g.add("conv2d", g.inputs[0], weight("backbone.stem.conv.weight", 4, 3, 3, 3), origin=at, **conv_attrs())
    stats = [weight(f"backbone.stem.bn.{key}", 4) for key in ("weight", "bias", "running_mean")]
    var = g.const(rand(4, low=0.5, high=1.0), "backbone.stem.bn.running_var")
    (x,) = g.add("batch_norm", x, *stats, var, origin=at, eps=1e-3)
    silu = Origin("/home/someone/net.py", 13, "forward", "backbone.stem", rules=("silu_to_sigmoid_mul",))
    (gate,) = g.add("sigmoid", x, origin=silu)
    (x,) = g.add("mul", x, gate, origin=silu)
    (x,) = g.add("identity", x)
    w, b = weight("head.preds.0.weight", 2, 4, 1, 1), weight("head.preds.0.bias", 2)
    here = Origin("/home/someone/net.py", 30, "forward", "head")
    (first,) = g.add("conv2d", x, w, b, origin=here, **conv_attrs(padding=((0, 0), (0, 0))))
    (second,) = g.add("conv2d", first_half(g, x), w, b, origin=here, **conv_attrs(padding=((0, 0), (0, 0))))
    (first,) = g.add("flatten", first, origin=here, start=2, end=3)
    (second,) = g.add("flatten", second, origin=here, start=2, end=3)
    (x,) = g.add("cat", first, second, origin=here, axis=2)
    (x,) = g.add("permute", x, origin=here, dims=(0, 2, 1))
    (x,) = g.add("add", x, g.const(rand(1, 80, 2), "head.grids"), origin=here)
    return g


def first_half(g: HandGraph, x: Value) -> Value:
    return g.add(
        "max_pool2d", x, kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False
    )[0]


@pytest.fixture(scope="module")
def detector() -> Generated:
    return generate(small_detector(), "a detector")


def test_state_dict_keys_are_the_checkpoints(detector: Generated) -> None:
    net = load_generated(detector)
    assert list(net.state_dict()) == list(detector.state)
    assert set(detector.state) == {
        "backbone.stem.conv.weight", "backbone.stem.bn.weight", "backbone.stem.bn.bias",
        "backbone.stem.bn.running_mean", "backbone.stem.bn.running_var", "backbone.stem.bn.num_batches_tracked",
        "head.preds.0.weight", "head.preds.0.bias", "head.grids",
    }  # fmt: skip
    assert type(net.backbone.stem.conv) is torch.nn.Conv2d
    assert dict(net.named_modules())["head.preds.0"].kernel_size == (1, 1)
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 80, 2)


def test_source_reads_like_a_persons(detector: Generated) -> None:
    forward = detector.source.partition("def forward(self, images):")[2]
    assert "x = self.backbone.stem.conv(images)" in forward
    assert "gate = torch.sigmoid(x)\n        x = x * gate" in forward
    assert forward.count("self.head.preds[0](") == 2
    assert "# backbone  net.py:13\n        # rewritten by silu_to_sigmoid_mul\n" in forward
    assert "/home/someone" not in detector.source
    assert not re.search(r"^\s*(if|for|while)\b", forward, re.MULTILINE)


def test_a_variable_is_not_reused_while_it_is_needed() -> None:
    g = HandGraph(x=rand(2, 3))
    (a,) = g.add("exp", g.inputs[0])
    (b,) = g.add("identity", a)
    (c,) = g.add("neg", b)
    (d,) = g.add("add", a, c)
    (e,) = g.add("identity", d)
    (f,) = g.add("mul", e, d)
    g.outputs = [f, a, e]
    x = rand(2, 3)
    grown = np.exp(x)
    zero = grown - grown
    assert max(validate_generated(generate(g), [([x], [zero * zero, grown, zero])])) < 1e-6


def test_what_changes_nothing_is_not_written() -> None:
    g = HandGraph(x=rand(2, 3))
    (x,) = g.add("exp", g.inputs[0])
    (x,) = g.add("reshape", x, shape=(2, 3))
    (x,) = g.add("expand", x, shape=(2, 3))
    g.add("cast", x, dtype="float32")
    forward = generate(g).source.partition("def forward")[2]
    assert " ".join(forward.split()) == "(self, x): x = torch.exp(x) return x"


def test_names_of_exporters_become_paths() -> None:
    g = HandGraph(x=rand(2, 3))
    (x,) = g.add("add", g.inputs[0], g.const(rand(2, 3), "/head/Constant_output_0"))
    (x,) = g.add("add", x, g.const(rand(2, 3), "onnx::Add_7"))
    (x,) = g.add("add", x, g.const(rand(2, 3), "12"))
    g.add("add", x, g.const(rand(2, 3), "to"))
    assert set(generate(g).state) == {"head.Constant_output_0", "const_onnx__Add_7", "const_12", "const_to"}


def test_weights_read_by_a_module_and_by_an_op_are_stored_once() -> None:
    g = HandGraph(x=rand(3, 5))
    table = g.const(rand(7, 5), "decoder.weight")
    (x,) = g.add("linear", g.inputs[0], table)
    g.add("matmul", x, table)
    assert list(generate(g).state) == ["decoder.weight"]


def test_constants_never_land_inside_a_layer() -> None:
    # A device's quantizer swaps the layer and would lose them.
    g = HandGraph(x=rand(3, 5))
    (x,) = g.add("linear", g.inputs[0], g.const(rand(5, 5), "fc.weight"))
    g.add("mul", x, g.const(rand(3, 5), "fc.gain"))
    state = generate(g).state
    assert set(state) == {"fc.weight", "const_fc_gain"}


def test_what_cannot_be_said_is_named_with_its_origin() -> None:
    g = HandGraph(x=rand(3, 5))
    at = Origin("net.py", 7, None, "head")
    g.add("norm", g.inputs[0], origin=at, p=2.0, axes=(1,), keepdim=True)
    g.ops()
    broken = HandGraph(x=rand(3, 5))
    broken.add("var", broken.inputs[0], origin=at, axes=(1,), keepdim=True, correction=3)
    broken.add("roll", broken.inputs[0], shifts=(1,), axes=(0,))
    broken._ops[-1].kind = "roi_align"
    with pytest.raises(PorterError) as caught:
        generate(broken)
    assert caught.value.code == "PT340"
    assert "a correction of 3" in str(caught.value)
    assert "roi_align" in str(caught.value)
    assert caught.value.where == "net.py:7 in head"


def test_a_wrong_value_is_caught(detector: Generated) -> None:
    x = rand(1, 3, 8, 8)
    right = load_generated(detector)(torch.from_numpy(x)).detach().numpy()
    validate_generated(detector, [([x], [right])])
    with pytest.raises(PorterError) as caught:
        validate_generated(detector, [([x], [right + 0.01 * np.ptp(right)])])
    assert caught.value.code == "PT341"


@pytest.mark.parametrize(
    "source",
    [
        "f'{1}'",
        "x: int = 1",
        "(y := 1)",
        "1_000",
        "def f(a, /): pass",
        "def f(*a,): pass",
        "async def f(): pass",
        "def f(:",
    ],
)
def test_newer_syntax_is_found(source: str) -> None:
    assert newer_than_35(source)


def test_old_syntax_passes() -> None:
    assert newer_than_35("def f(a, *b, c=1):\n    return {**b[0], 'x': 'y %s' % a}\n") == []
