# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers, written out."""

from typing import Any

import numpy as np
import onnx
import pytest
import reference
import torch
from harness import Around, apply, compare, noise
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import porter
from porter.ops import Op, Origin, Value
from porter.registry import rules
from porter.rewrite import Fragment, NotApplicable
from porter.verify import verify

RULE = "recurrent_to_steps"
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def of_torch(module: nn.Module, kind: str, x: torch.Tensor, states: list[torch.Tensor]) -> tuple[Op, list[Any]]:
    """The op that torch.export makes of ``module``, and what torch computes."""
    weights = [w.detach().numpy() for w in module._flat_weights]
    with torch.no_grad():
        out, last = module(x, tuple(states) if kind == "lstm" else states[0])
    wanted = [out, *(last if kind == "lstm" else [last])]
    operands = [Value("x", tuple(x.shape), "float32")]
    operands += [Value.constant(f"w{i}", w) for i, w in enumerate(weights)]
    operands += [
        Value(f"s{i}", tuple(s.shape), "float32") if s.any() else Value.constant(f"s{i}", s.numpy())
        for i, s in enumerate(states)
    ]
    attrs: dict[str, Any] = {
        "hidden": module.proj_size or module.hidden_size,
        "direction": "bidirectional" if module.bidirectional else "forward",
        "layers": module.num_layers,
        "layout": "batch_first" if module.batch_first else "time_first",
        "biases": module.bias,
    }
    if kind == "rnn":
        attrs["activation"] = module.nonlinearity
    outs = tuple(Value(f"y{i}", tuple(w.shape), "float32") for i, w in enumerate(wanted))
    origin = Origin("model.py", 7, module="net.head", source=("node",))
    return Op(kind, tuple(operands), outs, attrs, "op", origin), [w.numpy() for w in wanted]


@st.composite
def layers(draw: Any) -> tuple[str, nn.Module, torch.Tensor, list[torch.Tensor]]:
    kind = draw(st.sampled_from(sorted(GATES)))
    hidden, size, batch, steps = (draw(st.integers(1, 4)) for _ in range(4))
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 2)),
        "bidirectional": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }
    projection = draw(st.integers(0, hidden - 1)) if kind == "lstm" else 0
    if projection:
        options["proj_size"] = projection
    if kind == "rnn":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    torch.manual_seed(draw(st.integers(0, 99)))
    module = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind](size, hidden, **options)
    stack = options["num_layers"] * (1 + options["bidirectional"])
    scale = float(draw(st.booleans()))
    states = [scale * torch.randn(stack, batch, projection or hidden)]
    if kind == "lstm":
        states.append(scale * torch.randn(stack, batch, hidden))
    shape = (batch, steps) if options["batch_first"] else (steps, batch)
    return kind, module, torch.randn(*shape, size), states


def _magnitude(module: nn.Module, steps: int) -> float:
    """The number of steps times the largest sum of magnitudes in a gate (|x| and |h| are at most 6 here)."""
    return steps * max(6 * float(w.detach().abs().sum(-1).max()) for w in module._flat_weights if w.ndim == 2)


@given(layers())
def test_torch(case: tuple[str, nn.Module, torch.Tensor, list[torch.Tensor]]) -> None:
    kind, module, x, states = case
    op, want = of_torch(module, kind, x, states)
    fragment = apply(RULE, op)
    assert all(out.rank is not None and out.rank <= 3 for built in fragment.ops for out in built.outputs)
    feeds = {"x": x.numpy(), **{f"s{i}": s.numpy() for i, s in enumerate(states)}}
    for got, wanted in zip(reference.run(fragment, feeds), want, strict=True):
        compare(rules()[RULE], got, wanted, of=_magnitude(module, max(x.shape)))


def test_hand_computed() -> None:
    """One LSTM of one unit over two steps: c' = f c + i g, h' = o tanh(c'), computed here with the definition."""
    w, r = np.float32([[0.5], [-1.0], [2.0], [0.25]]), np.float32([[1.0], [0.5], [-0.5], [1.5]])  # torch's i, f, g, o
    bias = np.float32([0.1, 0.2, 0.3, 0.4])
    x = np.float32([1.0, -2.0])
    h = c = 0.0
    outs = []
    for t in range(2):
        i, f, g, o = (float(v) for v in w[:, 0] * x[t] + r[:, 0] * h + bias)
        i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        outs.append(h)
    zeros = np.zeros((1, 1, 1), np.float32)
    consts = [Value.constant(f"w{i}", v) for i, v in enumerate((w, r, bias, np.zeros(4, np.float32), zeros, zeros))]
    attrs = {"hidden": 1, "direction": "forward", "layers": 1, "layout": "time_first", "biases": True}
    shapes = ((2, 1, 1), (1, 1, 1), (1, 1, 1))
    results = tuple(Value(f"y{i}", s, "float32") for i, s in enumerate(shapes))
    op = Op("lstm", (Value("x", (2, 1, 1), "float32"), *consts), results, attrs, "op", Origin("model.py", 7))
    got = reference.run(apply(RULE, op), {"x": x.reshape(2, 1, 1)})
    np.testing.assert_allclose(got[0].ravel(), outs, rtol=1e-6)
    np.testing.assert_allclose([got[1].item(), got[2].item()], [h, c], rtol=1e-6)


def test_what_nobody_reads_is_not_built() -> None:
    module = nn.LSTM(3, 2)
    op, want = of_torch(module, "lstm", torch.ones(3, 1, 3), [torch.zeros(1, 1, 2)] * 2)
    fragment = apply(RULE, op, Around(uses={"y0": 0, "y2": 0}))
    assert not any(built.kind == "cat" for built in fragment.ops)
    got = reference.run(fragment, {"x": np.ones((3, 1, 3), np.float32)})
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-7)


def test_a_state_of_zeros_costs_nothing() -> None:
    module = nn.GRU(3, 2)
    zero, other = (
        of_torch(module, "gru", torch.ones(1, 1, 3), [s])[0] for s in (torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
    )
    assert _count(apply(RULE, zero), "linear") == 1 and _count(apply(RULE, other), "linear") == 2


def test_a_state_that_the_model_fills_with_zeros_costs_nothing() -> None:
    module = nn.GRU(3, 2)
    op, _ = of_torch(module, "gru", torch.ones(1, 1, 3), [torch.ones(1, 1, 2)])
    state = op.operands[-1]
    full = Op("full", (), (state,), {"shape": (1, 1, 2), "value": 0.0, "dtype": "float32"})
    assert _count(apply(RULE, op, Around([full])), "linear") == 1


def _count(fragment: Fragment, kind: str) -> int:
    return sum(built.kind == kind for built in fragment.ops)


def _refused(op: Op, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        rules()[RULE].apply(Around(), op, "new")


def test_refuses() -> None:
    long, _ = of_torch(nn.RNN(2, 2, 2, bidirectional=True), "rnn", torch.ones(129, 1, 2), [torch.zeros(4, 1, 2)])
    _refused(long, r"516 steps \(length x layers x directions\) are more than 512")


# -- ONNX: whole models, proved with onnxruntime ---------------------------------------------------


def onnx_model(
    kind: str,
    steps: int,
    batch: int,
    size: int,
    hidden: int,
    *,
    direction: str = "forward",
    bias: bool = True,
    states: bool = False,
    outputs: int = 3,
    lengths: Any = None,
    time_axis: int = 0,
    peepholes: bool = False,
    **more: Any,
) -> onnx.ModelProto:
    d, gates = 2 if direction == "bidirectional" else 1, GATES[kind]
    consts = {
        "w": noise(d, gates * hidden, size, scale=0.5),
        "r": noise(d, gates * hidden, hidden, seed=1, scale=0.4),
    }
    names = ["x", "w", "r", "", "", "", "", ""]
    if bias:
        consts["b"] = noise(d, 2 * gates * hidden, seed=2)
        names[3] = "b"
    shape = (batch, d, hidden) if time_axis else (d, batch, hidden)
    inputs = [("x", (batch, steps, size) if time_axis else (steps, batch, size))]
    if lengths is not None:
        consts["lengths"] = np.asarray(lengths, np.int32)
        names[4] = "lengths"
    if states:
        names[5] = "h"
        inputs.append(("h", shape))
        if kind == "lstm":
            names[6] = "c"
            inputs.append(("c", shape))
    if peepholes:
        consts["p"] = noise(d, 3 * hidden)
        names[7] = "p"
    while not names[-1]:
        names.pop()
    count = min(outputs, 3 if kind == "lstm" else 2)
    every = ["y", "y_h", "y_c"][:count]
    options: dict[str, Any] = {"hidden_size": hidden, "direction": direction, **more}
    if time_axis:
        options["layout"] = 1
    node = helper.make_node(kind.upper(), names, every, **options)
    y = (batch, steps, d, hidden) if time_axis else (steps, d, batch, hidden)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, y if n == "y" else shape) for n in every],
        [numpy_helper.from_array(a, n) for n, a in consts.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@st.composite
def onnx_layers(draw: Any) -> onnx.ModelProto:
    kind = draw(st.sampled_from(sorted(GATES)))
    steps, batch, size, hidden = (draw(st.integers(1, 3)) for _ in range(4))
    more: dict[str, Any] = {}
    if kind == "gru":
        more["linear_before_reset"] = draw(st.integers(0, 1))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    if kind == "rnn" and draw(st.booleans()):
        more["activations"] = ["Relu"] * (2 if direction == "bidirectional" else 1)
    return onnx_model(
        kind, steps, batch, size, hidden, direction=direction, bias=draw(st.booleans()), states=draw(st.booleans()),
        outputs=draw(st.integers(1, 3)), lengths=[steps] * batch if draw(st.booleans()) else None, **more,
    )  # fmt: skip


@given(onnx_layers())
def test_onnx(model: onnx.ModelProto) -> None:
    before = porter.load(model)
    made = porter.rewrite(before, "mlu270", verify=False)
    assert made.ok and "recurrent_to_steps" in {rule for entry in made.ledger.entries for rule in entry.rules}
    feeds = [[noise(*v.shape, seed=seed) for v in before.inputs] for seed in (3, 4)]
    evidence = verify(before, made.graph, feeds)
    assert evidence.ok and evidence.worst.max_abs < 1e-4


@pytest.mark.parametrize("kind", sorted(GATES))
def test_onnx_batch_first(kind: str) -> None:
    """onnxruntime has no kernel for layout 1: the same weights with layout 0 and permuted tensors are the judge."""
    shape = (3, 2, 4, 3)
    options: dict[str, Any] = {"direction": "bidirectional", "states": True}
    first, plain = (porter.load(onnx_model(kind, *shape, time_axis=axis, **options)) for axis in (1, 0))
    (op,) = first.ops()
    feeds = [noise(*v.shape, seed=5) for v in first.inputs]
    want = plain.run([f.swapaxes(0, 1) for f in feeds])
    for value, feed in zip(first.inputs, feeds, strict=True):
        assert value.shape == feed.shape
    got = reference.run(apply_any(op), dict(zip([v.name for v in first.inputs], feeds, strict=True)))
    np.testing.assert_allclose(got[0], want[0].transpose(2, 0, 1, 3), rtol=1e-5, atol=1e-6)
    for a, b in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(a, b.swapaxes(0, 1), rtol=1e-5, atol=1e-6)


def apply_any(op: Op) -> Fragment:
    """The fragment of an op of a loaded model (its origin is the model's own)."""
    return rules()[RULE].apply(Around(), op, "new")


@pytest.mark.parametrize("kind", sorted(GATES))
@pytest.mark.parametrize("batch", [1, 2])
def test_time_first(kind: str, batch: int) -> None:
    """Of ONNX: the permuted op on permuted tensors is the one with layout 0, which onnxruntime knows."""
    options: dict[str, Any] = {"direction": "bidirectional", "states": True}
    first, plain = (porter.load(onnx_model(kind, 3, batch, 4, 3, time_axis=axis, **options)) for axis in (1, 0))
    (op,) = first.ops()
    (want,) = plain.ops()
    fragment = rules()["recurrent_to_time_first"].apply(Around(), op, "new")
    (made,) = (o for o in fragment.ops if o.kind == kind)
    assert dict(made.attrs) == dict(want.attrs)
    assert [v and (v.shape, v.dtype) for v in made.inputs] == [v and (v.shape, v.dtype) for v in want.inputs]
    assert [v.shape for v in made.outputs] == [v.shape for v in want.outputs]
    assert {o.kind for o in fragment.ops if o is not made} == ({"reshape"} if batch == 1 else {"permute"})
    feeds = {v.name: noise(*v.shape, seed=6) for v in first.inputs}
    expected = reference.run_op(op, [v and (feeds[v.name] if v.name in feeds else v.numpy()) for v in op.inputs])
    for got, wanted in zip(reference.run(fragment, feeds), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


@given(layers())
def test_the_reference_is_torch(case: tuple[str, nn.Module, torch.Tensor, list[torch.Tensor]]) -> None:
    """The interpreter of the tests computes what torch computes, and so does the rule on top of it."""
    kind, module, x, states = case
    if module.proj_size:
        return
    op, want = of_torch(module, kind, x, states)
    feeds = {"x": x.numpy(), **{f"s{i}": s.numpy() for i, s in enumerate(states)}}
    found = [reference.run_op(op, [feeds[v.name] if v.name in feeds else v.numpy() for v in op.operands])]
    if module.batch_first:
        found.append(reference.run(apply("recurrent_to_time_first", op), feeds))
    for each in found:
        for got, wanted in zip(each, want, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_time_first_of_torch() -> None:
    """A device whose LSTM wants a batch of 1 on the second axis."""
    layer = nn.LSTM(4, 3, batch_first=True)
    made = porter.rewrite(layer, "x5", {"x": (1, 5, 4)})
    assert "recurrent_to_time_first" in {rule for entry in made.ledger.entries for rule in entry.rules}
    assert made.evidence is not None and made.evidence.ok
    op, _ = of_torch(nn.GRU(2, 2), "gru", torch.ones(3, 1, 2), [torch.zeros(1, 1, 2)])
    with pytest.raises(NotApplicable, match="time comes first already"):
        rules()["recurrent_to_time_first"].apply(Around(), op, "new")


@st.composite
def ragged(draw: Any) -> onnx.ModelProto:
    """Lengths that differ, peepholes, or both."""
    kind = draw(st.sampled_from(["lstm", "lstm", "gru", "rnn"]))
    steps, batch, size, hidden = draw(st.integers(1, 4)), *(draw(st.integers(1, 3)) for _ in range(3))
    lengths = [draw(st.integers(1, steps)) for _ in range(batch)] if draw(st.booleans()) else None
    more = {"linear_before_reset": draw(st.integers(0, 1))} if kind == "gru" else {}
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    return onnx_model(
        kind, steps, batch, size, hidden, direction=direction, bias=draw(st.booleans()), states=draw(st.booleans()),
        lengths=lengths, peepholes=kind == "lstm" and (lengths is None or draw(st.booleans())), **more,
    )  # fmt: skip


def proved(model: onnx.ModelProto, extra: tuple[Any, ...] = ()) -> Fragment:
    """The fragment of the rule, after it was held against onnxruntime."""
    before = porter.load(model)
    (op,) = before.ops()
    fragment = apply_any(op)
    for seed in (3, 4):
        feeds = [*(noise(*v.shape, seed=seed) for v in before.inputs if v.dtype == "float32"), *extra]
        named = dict(zip([v.name for v in before.inputs], feeds, strict=True))
        for got, want in zip(reference.run(fragment, named), before.run(feeds), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    return fragment


@given(ragged())
def test_lengths_and_peepholes(model: onnx.ModelProto) -> None:
    proved(model)


def test_a_step_that_no_sequence_has_is_not_computed() -> None:
    assert _count(proved(onnx_model("gru", 4, 2, 2, 2, lengths=[2, 2])), "tanh") == 2
    assert _count(proved(onnx_model("gru", 4, 2, 2, 2, lengths=[2, 2])), "where") == 0


def test_lengths_are_refused_where_onnx_is_vague() -> None:
    for lengths in ([0, 2], [3, 9]):
        (op,) = porter.load(onnx_model("lstm", 3, 2, 2, 2, lengths=lengths)).ops()
        _refused(op, "are not 1 to 3")


@pytest.mark.parametrize("kind", sorted(GATES))
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_lengths_of_run_time(kind: str, direction: str) -> None:
    model = onnx_model(kind, 3, 4, 2, 2, lengths=[3, 3, 3, 3], direction=direction, states=True)
    (kept,) = [t for t in model.graph.initializer if t.name == "lengths"]
    model.graph.initializer.remove(kept)
    model.graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, (4,)))
    for lengths in ([3, 1, 2, 3], [1, 1, 1, 1]):
        proved(model, (np.asarray(lengths, np.int32),))


def test_peepholes_both_ways_become_forward_layers() -> None:
    before = porter.load(onnx_model("lstm", 3, 2, 2, 2, direction="bidirectional", peepholes=True))
    (op,) = before.ops()
    fragment = rules()["recurrent_to_forward"].apply(Around(), op, "new")
    layers = [made for made in fragment.ops if made.kind == "lstm"]
    assert len(layers) == 2 and [made.inputs[7].shape for made in layers] == [(1, 6), (1, 6)]
    data = before.ops()[0].inputs[7].numpy()
    assert all(np.array_equal(made.inputs[7].numpy(), data[k : k + 1]) for k, made in enumerate(layers))
    (op,) = porter.load(onnx_model("gru", 3, 2, 2, 2, direction="reverse", lengths=[2, 3])).ops()
    with pytest.raises(NotApplicable, match="the sequences have lengths"):
        rules()["recurrent_to_forward"].apply(Around(), op, "new")


def test_other_activations_keep_their_own_name() -> None:
    (op,) = porter.load(onnx_model("lstm", 2, 1, 2, 2, activations=["Sigmoid", "Relu", "Tanh"])).ops()
    assert op.kind == "onnx:LSTM"
    (op,) = porter.load(onnx_model("lstm", 2, 1, 2, 2, activations=["Sigmoid", "Tanh", "Tanh"])).ops()
    assert op.kind == "lstm"
    mixed = onnx_model("rnn", 2, 1, 2, 2, direction="bidirectional", activations=["Relu", "Tanh"])
    assert porter.load(mixed).ops()[0].kind == "onnx:RNN"
