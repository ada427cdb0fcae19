# SPDX-License-Identifier: Apache-2.0
"""One layer, and one direction, at a time."""

from typing import Any

import numpy as np
import onnx
import pytest
import reference
import torch
from harness import Around, apply, noise
from hypothesis import given
from test_recurrent import GATES, layers, of_torch, onnx_model
from torch import nn

import porter
from porter.ops import Op
from porter.registry import rules
from porter.rewrite import NotApplicable

FORWARD, SINGLE = "recurrent_to_forward", "recurrent_to_single_layers"


@given(layers())
def test_torch(case: tuple[str, nn.Module, torch.Tensor, list[torch.Tensor]]) -> None:
    kind, module, x, states = case
    if module.proj_size:
        return
    op, want = of_torch(module, kind, x, states)
    feeds = {"x": x.numpy(), **{f"s{i}": s.numpy() for i, s in enumerate(states)}}
    if module.num_layers == 1:
        _refused(SINGLE, op, "one layer")
    else:
        fragment = apply(SINGLE, op)
        assert [o.attrs["layers"] for o in fragment.ops if o.kind == kind] == [1] * module.num_layers
        _same(reference.run(fragment, feeds), want)
    if not module.bidirectional:
        _refused(FORWARD, op, "it runs forward")
    elif module.num_layers > 1:
        _refused(FORWARD, op, "there are 2 layers")
    elif module.batch_first:
        _refused(FORWARD, op, "the batch comes first")
    else:
        fragment = apply(FORWARD, op)
        assert [o.attrs["direction"] for o in fragment.ops if o.kind == kind] == ["forward"] * 2
        _same(reference.run(fragment, feeds), want)


@pytest.mark.parametrize("kind", sorted(GATES))
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("states", [False, True])
def test_onnx(kind: str, direction: str, states: bool) -> None:
    """Against onnxruntime: the forward layers are computed by the interpreter, the original by its kernel."""
    model = porter.load(onnx_model(kind, 4, 2, 3, 5, direction=direction, states=states))
    feeds = [noise(*v.shape, seed=7) for v in model.inputs]
    fragment = rules()[FORWARD].apply(Around(), _one(model), "new")
    got = reference.run(fragment, dict(zip([v.name for v in model.inputs], feeds, strict=True)))
    _same(got, model.run(feeds))


def test_onnx_refuses() -> None:
    lengths: onnx.ModelProto = onnx_model("gru", 3, 2, 2, 2, direction="reverse", lengths=[3, 3])
    _refused(FORWARD, _one(porter.load(lengths)), "the sequences have lengths")


def test_a_device_of_forward_layers(tmp_path: Any) -> None:
    path = tmp_path / "forward.toml"
    limit = "{ expr = \"direction == 'forward' and layers == 1\", why = 'one way' }"
    path.write_text(
        '[target]\nname = "forward"\ntitle = "A test device"\nextends = "onnxruntime"\n\n[[group]]\n'
        f'kinds = ["lstm", "gru", "rnn"]\nlimits = [{limit}]\n'
    )
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    made = porter.rewrite(layer, path, {"x": (2, 5, 3)})
    assert made.ok and made.evidence is not None and made.evidence.ok
    assert sum(op.kind == "lstm" for op in made.graph.ops()) == 4


def _one(model: Any) -> Op:
    (op,) = model.ops()
    found: Op = op
    return found


def _same(found: list[Any], want: list[Any]) -> None:
    for got, wanted in zip(found, want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def _refused(rule: str, op: Op, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        rules()[rule].apply(Around(), op, "new")
