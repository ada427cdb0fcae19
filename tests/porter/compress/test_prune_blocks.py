# SPDX-License-Identifier: Apache-2.0
"""Shortcut blocks: which are found, in which order they go, and what becomes of their constant."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import porter  # noqa: E402
from porter.compress.blocks import find_blocks  # noqa: E402
from porter.compress.surgery import gammas, prunable  # noqa: E402
from porter.errors import PorterError  # noqa: E402

INPUT = "x:1x3x8x8:float64"


def unit(c_in, c_out, kernel=1, act=None):
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), act or nn.Identity())


class Block(nn.Module):
    """x + f(x), with an activation behind the last batch norm (Darknet) or behind the sum (ResNet), or none."""

    def __init__(self, inner, outer):
        super().__init__()
        self.a, self.b = unit(4, 6, 1, nn.ReLU()), unit(6, 4, 1, inner)
        self.outer = outer

    def forward(self, x):
        return self.outer(x + self.b(self.a(x)))


class Net(nn.Module):
    """The blocks' sum is read by a later sum, a concatenation, a pool, and convolutions of every kind."""

    def __init__(self, count=3, inner=None, outer=None):
        super().__init__()
        self.stem = unit(3, 4)
        self.blocks = nn.ModuleList(Block(inner or nn.Identity(), outer or nn.Identity()) for _ in range(count))
        self.normed, self.side = unit(4, 4), unit(4, 2)
        self.depthwise = nn.Conv2d(4, 4, 1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        pooled = nn.functional.max_pool2d(x, 3, 1, 1)
        y = torch.cat((pooled, self.depthwise(x)), 1)
        return self.head(y) + self.side(self.normed(x) + self.norm(x))


def net(**options):
    torch.manual_seed(0)
    model = Net(**options).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def weaken(model, index, gamma=0.0):
    """Gamma of a block's last batch norm."""
    with torch.no_grad():
        model.blocks[index].b[1].weight.fill_(gamma)


def prune(model, shortcuts):
    return porter.prune(model, "onnxruntime", INPUT, percent=0, shortcuts=shortcuts, latency=False)


def test_blocks_are_found_weakest_first():
    model = net()
    weaken(model, 1, 0.1)
    weaken(model, 2, 0.2)
    blocks = find_blocks(porter.load(model, INPUT), prunable(model), gammas(model))
    assert [block.norm for block in blocks] == ["blocks.1.b.1", "blocks.2.b.1", "blocks.0.b.1"]
    assert blocks[0].paths == ("blocks.1.a.0", "blocks.1.a.1", "blocks.1.b.0", "blocks.1.b.1")
    assert blocks[0].mean_gamma == pytest.approx(0.1)


@pytest.mark.parametrize("inner", [None, nn.LeakyReLU(0.1), nn.ReLU6(), nn.SiLU()])
def test_a_block_with_gamma_0_goes_without_a_trace(inner):
    """Its beta, through the activation, is folded into a bias, running means, a depthwise and a pooled reader."""
    model = net(inner=inner)
    weaken(model, 0)
    weaken(model, 2)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    before = model(x)
    made = prune(model, 2)
    torch.testing.assert_close(made.module(x), before, rtol=0, atol=1e-12)
    assert all(not block.lost_at for block in made.blocks)
    assert {block.paths[-1] for block in made.blocks} == {"blocks.0.b.1", "blocks.2.b.1"}
    counts = {layer.path: layer.remaining for layer in made.layers}
    assert counts["blocks.0.a.1"] == 0 and counts["blocks.1.a.1"] == 6
    # The sums of the removed blocks are gone from the graph, and so are their layers.
    kinds = [op.kind for op in made.graph.ops()]
    assert kinds.count("add") == 3 and "fill" not in kinds
    assert made.stages[-1].parameters < made.stages[0].parameters


def test_behind_an_activation_the_constant_is_lost_and_the_report_says_so():
    model = net(outer=nn.ReLU())
    made = prune(model, 1)
    assert made.blocks[0].lost_at == ("relu",)
    assert [f.code for f in made.findings if f.code != "PT610"] == ["PT611"]


class Shared(nn.Module):
    """Two scales and one head for both, as in RetinaNet; only the first scale reads the block's sum directly."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.down = unit(3, 4), Block(nn.Identity(), nn.Identity()), unit(4, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.block(self.stem(x))
        return self.head(x), self.head(self.down(x))


def test_a_sum_that_is_an_output_loses_the_constant_and_a_layer_that_is_one_does_not():
    class Ends(nn.Module):
        def __init__(self, shown):
            super().__init__()
            self.stem, self.block = unit(3, 4), Block(nn.Identity(), nn.Identity())
            self.head, self.shown = nn.Conv2d(4, 2, 1), shown

        def forward(self, x):
            x = self.block(self.stem(x))
            return (self.head(x), x) if self.shown else self.head(x)

    assert prune(Ends(True).double().eval(), 1).blocks[0].lost_at == ("output",)
    assert prune(Ends(False).double().eval(), 1).blocks[0].lost_at == ()


def test_a_head_that_scales_share_takes_no_scales_constant():
    torch.manual_seed(0)
    model = Shared().double().eval()
    with torch.no_grad():
        model.block.b[1].weight.zero_()
        model.block.b[1].bias.normal_()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    second = model(x)[1]
    made = prune(model, 1)
    torch.testing.assert_close(made.module(x)[1], second, rtol=0, atol=1e-12)
    assert made.blocks[0].lost_at == ("conv2d",)


def test_the_pruned_module_trains_on():
    made = prune(net(), 2)
    module = copy.deepcopy(made.module).train()
    module(torch.randn(2, 3, 8, 8, dtype=torch.float64)).square().mean().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_asking_for_too_many_blocks_says_how_many_there_are():
    with pytest.raises(PorterError) as caught:
        prune(net(count=2), 3)
    assert caught.value.code == "PT604" and "has 2 shortcut blocks" in caught.value.message


def test_branches_that_something_else_reads_are_no_blocks():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = unit(3, 4), unit(4, 4), unit(4, 4)

        def forward(self, x):
            x = self.stem(x)
            y = self.a(x)
            return x + self.b(y) + y

    model = Read().double().eval()
    assert [b.norm for b in find_blocks(porter.load(model, INPUT), prunable(model), gammas(model))] == []
