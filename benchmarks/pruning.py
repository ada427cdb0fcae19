# SPDX-License-Identifier: Apache-2.0
"""Pruning beside torch-pruning: random architectures, the same silent channels, how many each removes and whether the
network is still the same.

    python benchmarks/pruning.py [--count 60]

The architectures are those of the property test: residual, concatenated, grouped, depthwise, chunked, sliced, gated
layers in random order, in float64. Gamma and beta are 0 in two fifths of the channels of each layer, so a right answer
changes nothing. torch-pruning removes by its own dependency graph the channels whose coupled gammas are all 0.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch
import torch_pruning as tp

import porter

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "porter" / "compress"))
from prune_models import STEPS, RandomNet, set_norms

INPUT = "x:2x3x8x8:float64"
SAME = 1e-9  # of the output's range, in float64


def by_porter(net: torch.nn.Module) -> torch.nn.Module:
    module: torch.nn.Module = porter.prune(net, "onnxruntime", INPUT, percent=0.6, layer_keep=0, latency=False).module
    return module


def by_torch_pruning(net: torch.nn.Module) -> torch.nn.Module:
    x = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    importance = tp.importance.BNScaleImportance(group_reduction="max")
    graph = tp.pruner.BNScalePruner(net, x, importance=importance, ignored_layers=[net.head]).DG
    roots = [torch.nn.Conv2d, torch.nn.ConvTranspose2d]
    for group in list(graph.get_all_groups(ignored_layers=[net.head], root_module_types=roots)):
        score = importance(group)
        silent = [i for i, value in enumerate(score.tolist()) if value == 0] if score is not None else []
        if silent and len(silent) < len(score):
            found = graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, silent)
            if graph.check_pruning_group(found):
                found.prune()
    return net


def size(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    outcome: dict[str, Counter[str]] = {"porter": Counter(), "torch-pruning": Counter()}
    left = dict.fromkeys(outcome, 0.0)
    for seed in range(args.count):
        rng = random.Random(seed)
        net = RandomNet([rng.choice(STEPS) for _ in range(rng.randint(1, 5))], seed).double().eval()
        set_norms(net, seed, zeros=0.4, beta_of_zeros=False)
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            want = net(x)
        for name, prune in (("porter", by_porter), ("torch-pruning", by_torch_pruning)):
            share = 1.0
            try:
                pruned = prune(copy.deepcopy(net))
                error = float((pruned(x) - want).detach().abs().max() / (want.max() - want.min()))
                answer = "same" if error < SAME else "another function"
                share = size(pruned) / size(net)
            except Exception as failure:
                answer = f"raises {type(failure).__name__}"
            outcome[name][answer] += 1
            left[name] += share / args.count
    for name, counts in outcome.items():
        print(f"{name:14} {dict(counts)}, parameters left {left[name]:.3f}")


if __name__ == "__main__":
    main()
