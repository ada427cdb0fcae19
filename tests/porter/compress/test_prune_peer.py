# SPDX-License-Identifier: Apache-2.0
"""torch-pruning as an oracle, on the architectures that it prunes rightly: porter finds as many channels."""

import copy
import random

import pytest

torch = pytest.importorskip("torch")
tp = pytest.importorskip("torch_pruning")

from prune_models import RandomNet, set_norms  # noqa: E402

import porter  # noqa: E402

#: torch-pruning 1.6.1 raises or gives another function on the other steps (chunk, slice, preact, multiplier, ...).
KINDS = ("conv", "residual", "bottleneck", "inverted", "concat", "dense", "pool", "upsample", "shared", "prelu")


def prune_by_peer(net):
    """Remove every channel whose coupled gammas are all 0, by torch-pruning's dependency graph."""
    pruner = tp.pruner.BNScalePruner(
        net, torch.zeros(2, 3, 8, 8, dtype=torch.float64), importance=tp.importance.BNScaleImportance("max"),
        ignored_layers=[net.head],
    )  # fmt: skip
    graph = pruner.DG
    for group in list(graph.get_all_groups([net.head], [torch.nn.Conv2d])):
        score = pruner.importance(group)
        silent = [i for i, value in enumerate(score.tolist()) if value == 0] if score is not None else []
        if silent:
            graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, silent).prune()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
def test_as_many_channels_as_torch_pruning(seed):
    rng = random.Random(seed)
    net = RandomNet([rng.choice(KINDS) for _ in range(3)], seed).double().eval()
    set_norms(net, seed, zeros=0.4, beta_of_zeros=False)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before = net(x)
    peer = copy.deepcopy(net)
    prune_by_peer(peer)
    torch.testing.assert_close(peer(x), before)
    made = porter.prune(net, "onnxruntime", "x:2x3x8x8:float64", percent=0.6, layer_keep=0, latency=False)
    torch.testing.assert_close(made.module(x), before)
    assert sum(p.numel() for p in made.module.parameters()) == sum(p.numel() for p in peer.parameters())
    assert made.stages[-1].parameters < made.stages[0].parameters
