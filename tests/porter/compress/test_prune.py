# SPDX-License-Identifier: Apache-2.0
"""Pruning by hand-computed thresholds, schemes, floors and folds; what is saved; what is refused."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from prune_models import RandomNet, set_norms  # noqa: E402
from torch import nn  # noqa: E402

import porter  # noqa: E402
from porter.compress.masks import make_plan  # noqa: E402
from porter.compress.prune import Pruned  # noqa: E402
from porter.compress.surgery import gammas, prunable  # noqa: E402
from porter.errors import PorterError  # noqa: E402

INPUT = "x:1x3x8x8"
DOUBLE = "x:1x3x8x8:float64"


def unit(c_in, c_out, kernel=1, groups=1, act=None):
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), act or nn.ReLU())


def set_gammas(model, **values):
    """Gammas by the path of a unit ("a" is a.1), beta 0.3 everywhere, statistics away from 0 and 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(0.3)
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
        for path, gamma in values.items():
            model.get_submodule(path)[1].weight.copy_(torch.tensor(gamma))


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = unit(3, 4), unit(4, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.b(self.a(x)))


def chain():
    model = Chain()
    set_gammas(model, a=[0.1, 0.2, 0.3, 0.4], b=[0.5, 0.6, 0.7, 0.8])
    return model


def kept(made):
    return {layer.path: layer.remaining for layer in made.layers}


def prune(model, **options) -> Pruned:
    options.setdefault("latency", False)
    options.setdefault("layer_keep", 0)
    return porter.prune(model, "onnxruntime", options.pop("inputs", INPUT), **options)


# -- thresholds, floors, multiples --------------------------------------------------------------------------------


def test_the_global_threshold_is_the_percentile_of_all_gammas():
    made = prune(chain(), percent=0.25)  # 2 of 8 lie below the third smallest
    assert made.threshold == pytest.approx(0.3) and made.limit == pytest.approx(0.4)
    assert kept(made) == {"a.1": 2, "b.1": 4}
    torch.testing.assert_close(made.module.a[1].weight.detach(), torch.tensor([0.3, 0.4]))
    assert made.module.b[0].weight.shape == (4, 2, 1, 1)


def test_a_layer_keeps_its_floor_and_the_multiple():
    assert kept(prune(chain(), percent=0.25, layer_keep=0.75)) == {"a.1": 3, "b.1": 4}
    assert kept(prune(chain(), percent=0.25, multiple=4)) == {"a.1": 4, "b.1": 4}
    assert kept(prune(chain(), percent=0.45, layer_keep=0.1, multiple=2)) == {"a.1": 2, "b.1": 4}


def test_the_multiple_is_the_targets_own(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[target]\nname = "mine"\nextends = "onnxruntime"\n[performance]\nchannel_multiple = 4\n')
    made = porter.prune(chain(), mine, INPUT, percent=0.25, layer_keep=0, latency=False)
    assert made.options["multiple"] == 4 and kept(made) == {"a.1": 4, "b.1": 4}


def test_skipped_layers_keep_their_channels_and_do_not_count():
    made = prune(chain(), percent=0.5, skip=["a*"])
    assert kept(made) == {"a.1": 4, "b.1": 2} and made.threshold == pytest.approx(0.7)


def test_a_percent_that_empties_a_layer_is_refused_and_the_highest_one_works():
    with pytest.raises(PorterError) as caught:
        prune(chain(), percent=0.6)
    assert caught.value.code == "PT602" and "a.1" in caught.value.message and "0.375" in caught.value.fix
    assert kept(prune(chain(), percent=0.375))["a.1"] == 1


# -- coupled layers ------------------------------------------------------------------------------------------------


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = unit(3, 4), unit(4, 4, 3, groups=4)
        self.head = nn.Conv2d(4, 2, 1)

    forward = Chain.forward


@pytest.mark.parametrize(("scheme", "left"), [("intersection", [0, 2, 3]), ("max", [2, 3])])
def test_depthwise_sides_agree_by_both_schemes(scheme, left):
    """In: 0 and 1 are below 0.5; out: 1 and 2. Both mark 1; by count two go, the least by the geometric mean."""
    model = Separable()
    inside, outside = [0.1, 0.2, 0.9, 0.8], [0.9, 0.15, 0.3, 0.85]
    set_gammas(model, a=inside, b=outside)
    made = prune(model, percent=0.5, scheme=scheme)
    assert made.threshold == pytest.approx(0.8)
    # Below 0.8: inside 0, 1; outside 1, 2.
    torch.testing.assert_close(made.module.a[1].weight.detach(), torch.tensor(inside)[left])
    torch.testing.assert_close(made.module.b[1].weight.detach(), torch.tensor(outside)[left])
    assert made.module.b[0].groups == made.module.b[0].in_channels == len(left)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = unit(3, 4), unit(4, 4), unit(4, 4, act=nn.Identity())
        self.head = nn.Conv2d(4, 2, 1, bias=False)

    def forward(self, x):
        x = self.a(x)
        return self.head(x + self.c(self.b(x)))


def residual(last=(0.1, 0.9, 0.1, 0.9)):
    model = Residual()
    set_gammas(model, a=[0.1, 0.1, 0.9, 0.9], b=[0.9] * 4, c=list(last))
    return model


def test_a_residual_sum_loses_only_what_every_layer_marks():
    made = prune(residual(), percent=0.35)
    assert kept(made) == {"a.1": 3, "b.1": 4, "c.1": 3}
    torch.testing.assert_close(made.module.c[1].weight.detach(), torch.tensor([0.9, 0.1, 0.9]))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = unit(3, 4), unit(4, 4, 3, groups=2)
        self.head = nn.Conv2d(4, 2, 1)

    forward = Chain.forward


@pytest.mark.parametrize(
    ("marks", "scheme", "left"),
    [
        ([0, 1, 1, 0], "intersection", 4),  # the groups mark different places
        ([0, 1, 1, 0], "max", 2),  # but one each
        ([0, 1, 1, 1], "max", 4),  # the first group keeps both
        ([0, 1, 0, 1], "intersection", 2),
    ],
)
def test_groups_keep_equally_many(marks, scheme, left):
    model = Grouped()
    set_gammas(model, a=[float(mark) for mark in marks], b=[1.0] * 4)
    made = prune(model, percent=0.4, scheme=scheme)
    if marks == [0, 1, 1, 1]:
        left = 4
    assert kept(made) == {"a.1": left, "b.1": 4}
    assert made.module.b[0].groups == 2 and made.structure < 1e-6


def test_written_sizes_keep_channels_and_say_where():
    net = RandomNet(["split"], 3)
    set_norms(net, 3, zeros=0.5, beta_of_zeros=False)
    made = prune(net, percent=0.6)
    step = next(layer for layer in made.layers if layer.path == "body.0.a.1")
    assert step.remaining == step.total
    note = next(f for f in made.findings if f.code == "PT610" and "split" in f.message)
    assert note.origin.file.endswith("prune_models.py") and note.origin.line


def test_code_that_writes_a_size_out_falls_back_to_keeping_it():
    class Written(Chain):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4 * 64, 2)

        def forward(self, x):
            return self.head(self.b(self.a(x)).reshape(-1, 256))

    model = Written()
    set_gammas(model, a=[0.0, 0.0, 1.0, 1.0], b=[0.0, 1.0, 1.0, 1.0])
    assert kept(prune(model, percent=0.6)) == {"a.1": 2, "b.1": 4}


def test_rebuilt_code_follows_written_sizes():
    """A split in uneven pieces, a slice and a flatten with written sizes, all cut; the oracle is the original."""

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = unit(3, 8), unit(6, 4), unit(6, 4)
            self.head = nn.Linear(4 * 64, 2)

        def forward(self, x):
            x = self.a(x)
            p, q = x.split([2, 6], 1)
            y = self.b(q) + self.c(torch.cat((p, x[:, 4:]), 1))
            return self.head(y.reshape(-1, 256))

    model = Written()
    silent = [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    set_gammas(model, a=silent, b=[0.0, 1.0, 1.0, 1.0], c=[0.0, 0.0, 1.0, 1.0])
    with torch.no_grad():
        for path in ("a", "b", "c"):
            norm = model.get_submodule(path)[1]
            norm.bias.masked_fill_(norm.weight == 0, 0)
    before = copy.deepcopy(model).eval()
    with pytest.raises(PorterError) as caught:
        prune(model, percent=0.5)
    assert caught.value.code == "PT603" and "rebuild" in caught.value.fix
    made = prune(model, percent=0.5, rebuild=True)
    assert kept(made) == {"a.1": 4, "b.1": 3, "c.1": 3}
    assert made.module.b[0].weight.shape[:2] == (3, 3) and made.module.head.in_features == 3 * 64
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(made.module(x), before(x), rtol=1e-4, atol=1e-5)
    made.module.train()(x).sum().backward()
    assert all(p.grad is not None for p in made.module.parameters())


def test_a_piece_of_a_split_keeps_a_channel():
    net = RandomNet(["slice"], 1)
    set_norms(net, 1, zeros=0.0, beta_of_zeros=True)
    with torch.no_grad():
        net.body[0].a[1].weight[:4] = 0
    made = prune(net, percent=0.3, rebuild=True)
    assert kept(made)["body.0.a.1"] >= 2 and made.structure < 1e-5


def test_code_that_does_not_follow_is_refused():
    class Counts(Chain):
        def forward(self, x):
            y = self.b(self.a(x))
            return self.head(y) * (1 if y.shape[1] == 4 else 2)

    model = Counts()
    set_gammas(model, a=[1.0] * 4, b=[0.0, 1.0, 1.0, 1.0])
    with pytest.raises(PorterError) as caught:
        prune(model, percent=0.2)
    assert caught.value.code == "PT605"


class Columns(Chain):
    """A column of pixels beside one of scores, which the number of channels that are left doubles."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        x = self.b(self.a(x))
        y = self.head(x).flatten(2).transpose(1, 2)
        return torch.cat((y[..., :1] * 1e6, y[..., 1:] * (1 if x.shape[1] == 4 else self.factor)), -1)


def test_a_wrong_score_is_not_hidden_by_a_column_of_large_numbers():
    right, wrong = Columns(1), Columns(2)
    for model in (right, wrong):
        set_gammas(model, a=[1.0] * 4, b=[0.0, 1.0, 1.0, 1.0])
    made = prune(right, percent=0.2)
    assert kept(made)["b.1"] == 3 and made.structure < 1e-10
    with pytest.raises(PorterError) as caught:
        prune(wrong, percent=0.2)
    assert caught.value.code == "PT605"


def test_code_that_insists_on_float32_is_proved_in_float32():
    class Single(Chain):
        def forward(self, x):
            return super().forward(x.float())

    model = Single()
    set_gammas(model, a=[1.0] * 4, b=[0.0, 1.0, 1.0, 1.0])
    made = prune(model, percent=0.2)
    assert kept(made)["b.1"] == 3 and made.structure < 1e-5


# -- folding -------------------------------------------------------------------------------------------------------


class Fold(nn.Module):
    """The readers of ``a``: with a batch norm behind it, with a bias, with neither."""

    def __init__(self, kernel, act):
        super().__init__()
        self.a = unit(3, 6, act=act)
        self.normed = unit(6, 4, kernel)
        self.biased = nn.Conv2d(6, 4, kernel, padding=kernel // 2)
        self.bare = nn.Conv2d(6, 4, kernel, padding=kernel // 2, bias=False)

    def forward(self, x):
        x = self.a(x)
        return self.normed(x) + self.biased(x) + self.bare(x)


@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid, nn.SiLU])
def test_beta_is_folded_exactly_into_every_kind_of_reader(act):
    """The oracle is the original with gamma 0 in the two channels, computed here."""
    model = Fold(1, act()).double()
    set_gammas(model, a=[0.0, 0.5, 0.0, 0.5, 0.5, 0.5], normed=[0.5] * 4)
    before = copy.deepcopy(model).eval()
    made = prune(model, percent=0.4, inputs=DOUBLE)
    assert kept(made)["a.1"] == 4
    assert made.module.bare.bias is not None
    assert not torch.equal(made.module.normed[1].running_mean, before.normed[1].running_mean)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(made.module(x), before(x), rtol=0, atol=1e-12)
    assert made.folding < 1e-12


def test_beta_behind_padding_is_exact_inside_and_the_report_says_how_far_off_the_border_is():
    model = Fold(3, nn.ReLU()).double()
    set_gammas(model, a=[0.0, 0.5, 0.0, 0.5, 0.5, 0.5], normed=[0.5] * 4)
    before = copy.deepcopy(model).eval()
    made = prune(model, percent=0.4, inputs=DOUBLE)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    got, want = made.module(x), before(x)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], want[..., 1:-1, 1:-1], rtol=0, atol=1e-12)
    assert float((got - want).detach().abs().max()) > 1e-3 and made.folding > 1e-3 and made.structure < 1e-12


# -- counts, legality, saving --------------------------------------------------------------------------------------


def macs_by_hooks(model, x):
    """Multiply-accumulates of convolutions and linear layers, counted where they run."""
    total = 0

    def note(module, _inputs, out):
        nonlocal total
        total += out.numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return total


def test_counts_are_those_of_the_rebuilt_model():
    net = RandomNet(["inverted", "grouped", "dense", "conv"], 5)
    set_norms(net, 5, zeros=0.4, beta_of_zeros=True)
    made = prune(net, percent=0.6)
    x = torch.randn(1, 3, 8, 8)
    for stage, module in ((made.stages[0], net.eval()), (made.stages[-1], made.module)):
        assert stage.parameters == sum(p.numel() for p in module.parameters())
        assert stage.macs == macs_by_hooks(module, x)
    assert made.stages[-1].macs < made.stages[0].macs


def test_stages_metric_and_finetune():
    seen = []

    def metric(module):
        assert not module.training
        seen.append(sum(p.numel() for p in module.parameters()))
        return torch.tensor(float(len(seen)))

    def finetune(module):
        with torch.no_grad():
            module.head.bias.fill_(7)

    model = residual()
    before = copy.deepcopy(model.state_dict())
    made = prune(model, percent=0.35, shortcuts=1, metric=metric, finetune=lambda m: m, mask="2:4", latency=True)
    names = ["before", "after channels", "after layers", "after fine-tune", "after mask 2:4"]
    assert [stage.name for stage in made.stages] == names
    assert [stage.metric for stage in made.stages] == [1, 2, 3, 4, 5]
    assert all(stage.latency.milliseconds > 0 for stage in made.stages)
    assert seen[0] > seen[1] > seen[2] == seen[3]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert prune(chain(), percent=0.25, finetune=finetune).module.head.bias.tolist() == [7, 7]


def test_the_result_is_checked_and_can_be_ported(tmp_path):
    net = RandomNet(["inverted", "concat"], 2)
    set_norms(net, 2, zeros=0.4, beta_of_zeros=True)
    made = porter.prune(net, "mlu270", INPUT, percent=0.6, latency=False)
    assert made.ok == made.report.portable
    samples = [[np.random.default_rng(i).normal(size=(1, 3, 8, 8)).astype(np.float32)] for i in range(4)]
    ported = porter.port(made.graph, "mlu270", samples, tmp_path / "bundle", dtypes=("int16", "int8"))
    assert ported.bundle is not None and len(ported.quantized) == 2


def test_saved_code_and_weights_run_without_porter(tmp_path):
    net = RandomNet(["inverted", "dense"], 4)
    set_norms(net, 4, zeros=0.4, beta_of_zeros=True)
    made = prune(net, percent=0.5, shortcuts=1)
    folder = made.save(tmp_path / "out", plot=True)
    assert sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == [
        "channels.png", "ledger.json", "model.pt2", "model.py", "pruning.json", "report.json", "weights.pt",
    ]  # fmt: skip
    written = json.loads((folder / "pruning.json").read_text())
    assert [layer["remaining"] for layer in written["layers"]] == [layer.remaining for layer in made.layers]
    assert written["stages"][-1]["parameters"] == made.stages[-1].parameters
    x = torch.randn(1, 3, 8, 8)
    torch.save((x, made.module(x).detach()), tmp_path / "case.pt")
    script = (
        "import sys, torch; import model; x, want = torch.load('../case.pt'); net = model.Model();"
        "net.load_state_dict(torch.load('weights.pt')); net.eval();"
        "assert 'porter' not in sys.modules; torch.testing.assert_close(net(x), want, rtol=1e-4, atol=1e-5)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    again = porter.load(folder / "model.pt2")
    np.testing.assert_allclose(again.run([x.numpy()])[0], made.module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_an_onnx_file_that_still_has_batch_norm_is_pruned(tmp_path):
    """Exporters fold batch norm in evaluation mode; a file written with the training form keeps it."""
    model = chain().eval()
    porter.load(model, INPUT)
    from porter.dialects.onnx import OnnxGraph

    path = tmp_path / "chain.onnx"
    OnnxGraph.from_graph(porter.load(model, INPUT)).save(path)
    made = prune(path, percent=0.25, inputs=None)
    assert sorted(kept(made).values()) == [2, 4]


# -- refused -------------------------------------------------------------------------------------------------------


class NoNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize(
    ("model", "options", "code"),
    [
        (NoNorm, {}, "PT600"),
        (chain, {"percent": 30}, "PT601"),
        (chain, {"percent": float("nan")}, "PT601"),
        (chain, {"layer_keep": -0.1}, "PT601"),
        (chain, {"scheme": "union"}, "PT601"),
        (chain, {"multiple": 0}, "PT601"),
        (chain, {"shortcuts": -1}, "PT601"),
        (chain, {"skip": ["*"]}, "PT603"),
        (chain, {"shortcuts": 1, "percent": 0.1}, "PT604"),
        (chain, {"mask": "4:2"}, "PT607"),
        (chain, {"mask": "half"}, "PT607"),
        (chain, {"metric": lambda module: {"mAP": 1}}, "PT608"),
        (chain, {"metric": "nowhere:metric"}, "PT515"),
        (chain, {"finetune": lambda module: 1 / 0, "percent": 0.1}, "PT520"),
    ],
)
def test_bad_input_has_a_code(model, options, code):
    with pytest.raises(PorterError) as caught:
        prune(model(), **{"layer_keep": 0.1, **options})
    assert caught.value.code == code


def test_a_plan_knows_no_torch():
    """The masks work on any captured graph: here on one from ONNX."""
    from porter.compress.channels import analyse
    from porter.dialects.onnx import OnnxGraph

    model = chain().eval()
    graph = OnnxGraph.from_graph(porter.load(model, INPUT))
    channels = analyse(graph, prunable(model))
    plan = make_plan(channels, gammas(model), 0.25, layer_keep=0)
    assert [len(plan.kept(layer.outputs)) for layer in channels.norms()] == [2, 4]
