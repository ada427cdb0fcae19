# SPDX-License-Identifier: Apache-2.0
"""Scaling from the configuration to the written model, on families small enough to build in a second."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
import scale_models as models
import torch
from rich.console import Console

import porter
from porter.cli import app
from porter.compress.scale import Options, Scaled, recount, scale
from porter.compress.scale_candidate import Candidate, Evaluator, pareto, reasons
from porter.compress.scale_channels import check_channels
from porter.compress.scale_plan import Plan, Requirement, make_plan
from porter.compress.xgen import XgenConfig, read_xgen
from porter.errors import PorterError
from porter.loading import load
from porter.report.scaling import print_scaled
from porter.target import Target

MODELS = f"{models.__name__}"
SHAPE = "(1,3,16,16)"


def config(folder: Path, **sections: dict[str, Any]) -> Path:
    path = folder / "xgen.json"
    base: dict[str, dict[str, Any]] = {"compiler": {"input_shape": SHAPE}, "scaling": {"searching_granularity": 0.2}}
    path.write_text(json.dumps({**base, **sections}))
    return path


def plan(folder: Path, options: Options, target: str = "mlu270", **sections: dict[str, Any]) -> Plan:
    return make_plan(read_xgen(config(folder, **sections)), Target.load(target), options)


def search(folder: Path, target: str = "mlu270", **options: Any) -> Scaled:
    known: dict[str, Any] = {"model": models.net, "measure": False, "trials": 3, **options}
    return scale(config(folder), target, Options(**known), study=folder / "study")


# -- the whole way ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scaled, Path]:
    folder = tmp_path_factory.mktemp("trained")
    file = config(
        folder, compiler={"input_shape": SHAPE, "opset_version": 17}, user_requirements={"model_size": 0.003},
        training_script_args={"classes": 4},
    )  # fmt: skip
    options = Options(model=models.net, train=models.train, trials=5, measure=False)
    made = scale(file, "mlu270", options, study=folder / "study")
    return made, made.save(folder / "out")


def test_the_most_accurate_that_fits_is_chosen(trained: tuple[Scaled, Path]) -> None:
    made, _ = trained
    assert made.ok
    sizes = {c.factor: c.model_size for c in made.candidates}
    assert len(sizes) == 5
    fitting = [c for c in made.candidates if (c.model_size or 0.0) <= 0.003]
    assert 0 < len(fitting) < 5
    assert made.chosen == max(fitting, key=lambda c: c.factor)
    # What is too large is not trained.
    assert all((c.accuracy is not None) == (c in fitting) for c in made.candidates)
    assert all(c.state == ("met" if c in fitting else "missed") for c in made.candidates)
    assert made.chosen.accuracy == pytest.approx(0.5 + made.chosen.width / 4)


def test_its_numbers_are_those_of_the_rebuilt_model(trained: tuple[Scaled, Path]) -> None:
    made, _ = trained
    assert made.chosen is not None and made.counted is not None
    module = models.net(made.chosen.width, made.chosen.depth or 0.0)
    assert made.counted.agree
    assert made.counted.params == made.counted.rebuilt_params == made.chosen.params
    assert made.counted.params == sum(p.numel() for p in module.parameters())
    stem, body, n = 4 * 8 * 8 * 27, 8 * 8 * 9, len(module.blocks)
    channels = module.stem[0].out_channels
    assert made.counted.macs == made.chosen.macs == (stem // 4 + n * body + 8 * 8 * 4) * channels


def test_the_folder_holds_the_trained_model(trained: tuple[Scaled, Path]) -> None:
    made, out = trained
    assert made.chosen is not None
    names = {path.name for path in out.iterdir()}
    assert names >= {"model.py", "weights.pt", "model.pt2", "model.onnx", "checkpoint.pt", "scaling.json",
                     "pareto.svg", "pareto.png", "ledger.json", "evidence.json", "report.json"}  # fmt: skip
    saved = json.loads((out / "scaling.json").read_text())
    assert saved["chosen"]["factor"] == made.chosen.factor
    assert saved["counted"]["macs"] == saved["counted"]["rebuilt_macs"]
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "pareto.svg").read_text()
    # The code and the weights load without porter, and compute what the trained module does.
    spec = importlib.util.spec_from_file_location("scaled_model", out / "model.py")
    assert spec is not None and spec.loader is not None
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    model = written.Model()
    model.load_state_dict(torch.load(out / "weights.pt", weights_only=True))
    module = models.net(made.chosen.width, made.chosen.depth or 0.0)
    module.load_state_dict(torch.load(out / "checkpoint.pt", weights_only=True)["model"])
    assert module.head.bias is not None
    assert module.head.bias.tolist() == pytest.approx([made.chosen.factor] * 4)
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), module.eval()(x), rtol=1e-5, atol=1e-5)


def test_what_it_wrote_is_ready_to_port(trained: tuple[Scaled, Path], tmp_path: Path) -> None:
    _, out = trained
    data = [[torch.randn(1, 3, 16, 16).numpy()] for _ in range(2)]
    for target, file, dtype in (("mlu270", "model.pt2", "int16"), ("onnxruntime", "model.onnx", "int8")):
        assert porter.check(out / file, target).ok
        ported = porter.port(out / file, target, data, tmp_path / target, dtypes=[dtype])
        assert ported.ok and ported.bundle is not None
        assert any(dtype in path.name for path in ported.bundle.path.iterdir())


def test_a_finished_search_is_not_repeated(trained: tuple[Scaled, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = trained
    monkeypatch.setattr(Evaluator, "__call__", lambda *_: pytest.fail("tried again"))
    again = scale(
        made.study.parent / "xgen.json", "mlu270",
        Options(model=models.net, train=models.train, trials=5, measure=False), study=made.study,
    )  # fmt: skip
    assert again.candidates == made.candidates


# -- requirements ----------------------------------------------------------------------------------------------------


def test_an_accuracy_is_reached_by_the_fastest(tmp_path: Path) -> None:
    made = search(tmp_path, accuracy=0.6, train=models.train, trials=5)
    assert made.chosen is not None
    enough = [c for c in made.candidates if (c.accuracy or 0.0) >= 0.6]
    assert len(enough) > 1
    assert made.chosen.latency_ms == min(c.latency_ms or 0.0 for c in enough)
    assert all(c.accuracy is not None for c in made.candidates)


def test_lower_can_be_better(tmp_path: Path) -> None:
    file = config(tmp_path, user_requirements={"accuracy_reverse_yn": 1, "latency": 1e3})
    options = Options(model=models.net, train=models.train_worse_when_wide, trials=3, measure=False)
    made = scale(file, "mlu270", options, study=tmp_path / "study")
    assert made.chosen is not None
    assert made.chosen.factor == min(c.factor for c in made.candidates)


def test_a_latency_that_nothing_reaches_names_the_nearest(tmp_path: Path) -> None:
    made = search(tmp_path, latency=1e-9)
    assert not made.ok and made.chosen is None and made.nearest is not None
    finding = made.findings[-1]
    assert (finding.code, finding.severity) == ("PT623", "error")
    assert f"factor {made.nearest.factor:g}" in finding.message
    assert f"{made.nearest.latency_ms:.4g} ms" in finding.message
    assert made.nearest.latency_ms == min(c.latency_ms or 0.0 for c in made.candidates)
    with pytest.raises(PorterError, match="PT623"):
        made.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_measured_where_the_runtime_is_here(tmp_path: Path) -> None:
    made = search(tmp_path, target="onnxruntime", latency=1e3, trials=1)
    assert made.plan.latency_from == "measured"
    candidate = made.candidates[0]
    assert candidate.latency_ms == candidate.measured_ms
    assert "onnxruntime" in candidate.measured_on
    assert candidate.estimate_ms is not None and "this host" in candidate.estimated_at


def test_without_rates_sizes_can_be_searched_when_latency_is_measured(tmp_path: Path) -> None:
    made = search(tmp_path, target="mlu220", model_size=1e3, trials=1, latency_from="measured")
    assert made.candidates[0].estimate_ms is None
    assert made.chosen is not None
    with pytest.raises(PorterError, match="PT622"):
        search(tmp_path, target="mlu220", latency=1.0)


def test_what_onnxruntime_does_not_run_is_estimated_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> None:
        raise PorterError("PT353", "onnxruntime does not run it")

    monkeypatch.setattr("porter.compress.scale_candidate.measure", refuse)
    made = search(tmp_path, latency=1e3, trials=1, measure=True)
    assert made.chosen is not None and made.chosen.measured_ms is None
    (tmp_path / "other").mkdir()
    made = search(tmp_path / "other", latency=1e3, trials=1, latency_from="measured")
    assert made.candidates[0].state == "illegal"
    assert made.candidates[0].reason.startswith("PT353")


@pytest.mark.parametrize(
    ("requirement", "value", "violation"),
    [
        (Requirement("latency", 90.0, 0.1), 99.0, 0.0),
        (Requirement("latency", 90.0, 0.1), 108.0, 0.1),
        (Requirement("latency", 90.0), 45.0, 0.0),
        (Requirement("accuracy", 0.5, 0.1, at_least=True), 0.45, 0.0),
        (Requirement("accuracy", 0.5, 0.1, at_least=True), 0.4, 0.1),
        (Requirement("accuracy", -2.0, at_least=True), -3.0, 0.5),
    ],
)
def test_violation_is_a_share_of_the_limit_beyond_the_margin(
    requirement: Requirement, value: float, violation: float
) -> None:
    assert requirement.violation(value) == pytest.approx(violation)


def test_scores_order_candidates(tmp_path: Path) -> None:
    made = plan(tmp_path, Options(model=models.net, latency=10.0))

    def score(state: Any, latency: float, macs: int) -> float:
        return Candidate(1.0, 1.0, 1.0, state, latency_ms=latency, macs=macs).score(made)

    order = [
        score("illegal", 1.0, 5), score("missed", 30.0, 900), score("missed", 20.0, 800),
        score("met", 5.0, 400), score("met", 9.0, 700), score("met", 9.0, 10**9), score("met", 9.0, 10**10),
    ]  # fmt: skip
    assert order == sorted(order) and len(set(order)) == len(order)
    assert order[2] < 0 < order[3]


def test_the_front_by_hand(tmp_path: Path) -> None:
    made = plan(tmp_path, Options(model=models.net, latency=10.0, train=models.train))
    points = [(1.0, 0.3), (2.0, 0.2), (3.0, 0.5), (3.0, 0.4), (4.0, 0.5)]
    candidates = [Candidate(t, 1.0, None, "met", latency_ms=t, accuracy=a) for t, a in points]
    assert [(c.latency_ms, c.accuracy) for c in pareto(candidates, made)] == [(1.0, 0.3), (3.0, 0.5)]


# -- legality and channels -------------------------------------------------------------------------------------------


def test_what_is_not_legal_is_not_trained(tmp_path: Path) -> None:
    made = search(tmp_path, model=models.illegal, latency=1e3, train=models.train_fails)
    assert {c.state for c in made.candidates} == {"illegal"}
    assert all("logcumsumexp" in c.reason for c in made.candidates)
    assert made.chosen is None and made.nearest is None
    assert made.findings[-1].code == "PT623"
    # A reason that all share is said once, with the factors.
    (line,) = reasons(made.candidates)
    assert line.startswith(", ".join(f"{c.factor:g}" for c in made.candidates) + ": ")
    assert made.findings[-1].message.count("logcumsumexp") == 1
    out = Console(file=io.StringIO(), record=True, width=200)
    print_scaled(out, made)
    text = out.export_text()
    assert line in text and "Pareto" not in text  # no latency is known, so there is no front


def test_channels_that_do_not_match_are_named() -> None:
    assert check_channels(models.rounded_apart(1.0), SHAPE.strip("()").replace(",", "x")) == ()
    findings = check_channels(models.rounded_apart(0.7), "1x3x16x16")
    assert {f.code for f in findings} == {"PT627"}
    assert findings[0].message == (
        "scaled channels do not match between stem.1 (20) and blocks.0 (expects 22)"
    )  # int(8 * 0.7) * 4 and int(32 * 0.7)
    assert findings[0].origin.module == "blocks.0"
    assert "ceil(64 * width)" in findings[0].fix


def test_sums_of_two_widths_are_named_too() -> None:
    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 5, 1), torch.nn.Conv2d(3, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    (finding,) = check_channels(Sum(), "1x3x4x4")
    assert "between a (1x5x4x4) and b (1x6x4x4)" in finding.message


def test_the_check_leaves_the_model_alone() -> None:
    module = models.net().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_channels(module, "1x3x16x16")
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


def test_mismatched_candidates_are_skipped(tmp_path: Path) -> None:
    made = search(tmp_path, model=models.rounded_apart, latency=1e3, trials=5, train=None)
    states = {c.factor: c.state for c in made.candidates}
    assert states[1.0] == "met" and "illegal" in states.values()
    reason = next(c.reason for c in made.candidates if c.state == "illegal")
    assert reason.startswith("PT627: scaled channels do not match between stem.1")


def test_recounting_finds_a_difference() -> None:
    class Vector(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.matmul(torch.ones(3))

    counted = recount(load(Vector(), "2x3"))  # torch's counter leaves out products with a vector
    assert (counted.macs, counted.rebuilt_macs) == (6, 0)
    assert not counted.agree


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"model": models.no_width, "latency": 1.0}, "PT628", "no parameter 'width'"),
        ({"model": None, "latency": 1.0}, "PT519", "no model factory"),
        ({}, "PT519", "nothing is required"),
        ({"accuracy": 0.5}, "PT519", "nothing trains"),
        ({"latency": -1.0}, "PT519", "nothing is that small"),
        ({"latency": 1.0, "margin": 2.0}, "PT519", "margin"),
        ({"latency": 1.0, "low": 0.9, "high": 0.5}, "PT519", "no range"),
        ({"latency": 1.0, "trials": 0}, "PT519", "0 trials"),
        ({"latency": 1.0, "model_args": {"clases": 3}}, "PT519", "takes no clases"),
        ({"latency": 1.0, "dtype": "int7"}, "PT519", "int7"),
        ({"latency": 1.0, "model": f"{MODELS}:nett"}, "PT515", "nett"),
        ({"latency": 1.0, "train": f"{MODELS}:trainn"}, "PT515", "trainn"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(PorterError) as caught:
        plan(tmp_path, Options(**{"model": models.net, **options}))
    assert caught.value.code == code
    assert text in caught.value.message
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("train", "code", "text"),
    [
        (models.train_nothing, "PT626", "returned None"),
        (models.train_nan, "PT626", "returned nan"),
        (models.train_fails, "PT520", "no such data set"),
    ],
)
def test_training_that_fails_ends_the_search(tmp_path: Path, train: Any, code: str, text: str) -> None:
    with pytest.raises(PorterError) as caught:
        search(tmp_path, latency=1e3, train=train)
    assert caught.value.code == code
    assert text in caught.value.message
    # Once the function is right the same search goes on; nothing is left of the failed trial.
    assert len(search(tmp_path, latency=1e3, train=train_as(train)).candidates) == 3


def train_as(train: Any) -> Any:
    """The working training function under another one's name: the user's edit."""

    def fixed(model: Any, args: Any) -> float:
        return models.train(model, args)

    fixed.__module__, fixed.__qualname__ = train.__module__, train.__qualname__
    return fixed


def test_the_time_limit_of_a_training(tmp_path: Path) -> None:
    made = search(tmp_path, latency=1e3, train=models.train_long, time_limit=0.3)
    assert {c.state for c in made.candidates if c.factor > 0.5} == {"out of time"}
    assert made.chosen is not None and made.chosen.factor == 0.2


def test_several_workers_need_names(tmp_path: Path) -> None:
    with pytest.raises(PorterError, match="PT519"):
        scale(config(tmp_path), "mlu270", Options(model=models.net, latency=1.0), study=tmp_path / "s", workers=2)


def test_two_workers_find_what_one_finds(tmp_path: Path) -> None:
    options = Options(model=f"{MODELS}:net", train=f"{MODELS}:train", latency=1e3, trials=5, measure=False)
    made = porter.scale(config(tmp_path), "mlu270", options, study=tmp_path / "study", workers=2)
    assert [c.factor for c in made.candidates] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert made.chosen is not None and made.chosen.factor == 1.0
    assert made.ok


def test_another_requirement_needs_another_study(tmp_path: Path) -> None:
    search(tmp_path, latency=1e3, trials=1)
    with pytest.raises(PorterError) as caught:
        search(tmp_path, latency=5e2, trials=1)
    assert caught.value.code == "PT624"
    assert "1000" in caught.value.message and "500" in caught.value.message


# -- the command -----------------------------------------------------------------------------------------------------


def command(*args: str | Path) -> Any:
    from typer.testing import CliRunner

    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_the_command_prints_the_table_and_writes(tmp_path: Path) -> None:
    file = config(tmp_path, user_requirements={"latancy": 3, "max_sampling": 2}, porter={"target": "mlu270"})
    done = command(
        "scale", file, "--model", f"{MODELS}:flat", "--latency", "1000", "--no-measure", "-o", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    assert "Did you mean user_requirements.latency?" in done.output
    assert "chosen: factor 1" in done.output
    assert "(equal)" in done.output
    assert (tmp_path / "out" / "model.py").is_file() and (tmp_path / "out.study").is_dir()


def test_the_command_says_no(tmp_path: Path) -> None:
    file = config(tmp_path, user_requirements={"max_sampling": 2})
    args = ["scale", file, "-t", "mlu270", "--model", f"{MODELS}:net", "--latency", "1e-9", "--no-measure"]
    done = command(*args, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "PT623" in done.output and "nothing was written" in done.output
    done = command(*args, "-o", tmp_path / "out", "--format", "json")
    assert json.loads(done.output)["chosen"] is None
    assert not (tmp_path / "out").exists()


def test_latency_command(tmp_path: Path) -> None:
    from porter.dialects.onnx import OnnxGraph

    paths = []
    for width in (0.5, 1.0, 2.0):
        paths.append(tmp_path / f"net_{width}.onnx")
        OnnxGraph.from_graph(load(models.net(width), "1x3x16x16")).save(paths[-1])
    done = command("latency", "--target", "mlu270", *paths, "--format", "json")
    made = json.loads(done.output)
    times = [model["milliseconds"] for model in made["models"]]
    assert times == sorted(times)
    assert -1 <= made["rank_correlation"] <= 1
    assert "rank correlation" in command("latency", "--target", "mlu270", *paths).output


def test_a_configuration_that_was_read_can_be_passed(tmp_path: Path) -> None:
    read = read_xgen(config(tmp_path))
    assert isinstance(read, XgenConfig)
    made = scale(read, "mlu270", Options(model=models.net, latency=1e3, trials=1, measure=False), study=tmp_path / "s")
    assert made.chosen is not None
