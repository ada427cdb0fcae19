# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: the budget is met, by less than a naive order takes; pins are obeyed; what cannot be is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import quantize_models as models
from onnx import helper

import porter
from porter.data import open_data
from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.graph import Graph
from porter.quantize.mixed import Budget, Space, metric_by_name, mixed_precision, quality
from porter.quantize.report import Columns
from porter.quantize.scheme import Scheme
from porter.quantize.taps import Steps
from porter.report.tradeoff import tradeoff_svg

TARGET = porter.Target.load("mlu270")
DEPTH = 8


def chain(bad: tuple[int, ...]) -> Graph:
    """Convolutions in a row; the one before each of ``bad`` makes one channel 300 times larger than the others, and the
    bad one hardly reads it. For both, int8 leaves the others a few steps: the weight of the first, the input of the
    second."""
    rng = np.random.default_rng(0)
    tensors, nodes, value = {}, [], "x"
    for index in range(DEPTH):
        kernel = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        if index in bad:
            kernel[:, 0] /= 300
        if index + 1 in bad:
            kernel[0] *= 300
        tensors[f"c{index}.weight"] = kernel.reshape(4, 4, 1, 1).astype(np.float32)
        last = index == DEPTH - 1
        nodes.append(helper.make_node("Conv", [value, f"c{index}.weight"], [f"c{index}"], name=f"conv{index}"))
        value = f"c{index}"
        if not last:
            nodes.append(helper.make_node("LeakyRelu", [value], [f"r{index}"], name=f"act{index}", alpha=0.5))
            value = f"r{index}"
    return OnnxGraph.load(models.model(nodes, {"x": (1, 4, 6, 6)}, {value: (1, 4, 6, 6)}, tensors))


def samples(shape: tuple[int, ...], count: int = 4) -> list[Any]:
    return [[np.random.default_rng(i).normal(size=shape).astype(np.float32)] for i in range(count)]


def chosen(graph: Graph, budget: Budget, **options: Any) -> Any:
    data = open_data(samples(graph.inputs[0].shape), graph.inputs)
    return mixed_precision(graph, TARGET, Scheme.of(TARGET), data, "min_max", budget, **options)


def wide(mixed: Any) -> list[str]:
    return [p for u, w in zip(mixed.units, mixed.chosen.widths, strict=True) if w == "int16" for p in u.layers]


def test_the_layers_that_need_it_get_int16() -> None:
    made = chosen(chain(bad=(3, 6)), Budget(min_sqnr=28))
    assert made.chosen.meets and made.chosen.sqnr >= 28
    assert sorted(wide(made)) == ["c2", "c3", "c5", "c6"]
    assert made.layers == {"int8": DEPTH - 4, "int16": 4}
    assert made.pins == dict.fromkeys(["c2", "c3", "c5", "c6"], "int16")
    cheaper = [point for point in made.points if point.cost < made.chosen.cost]
    assert cheaper and not any(point.meets for point in cheaper)
    assert made.runs == (1 + DEPTH) * 4  # each layer alone, and the reference, on four samples
    assert len(made.points) <= 2 + 4 + 8


def test_the_naive_order_takes_more() -> None:
    graph = chain(bad=(3, 6))
    data = open_data(samples(graph.inputs[0].shape), graph.inputs)
    space = Space(graph, TARGET, Scheme.of(TARGET), data, "min_max", Budget(min_sqnr=28), {}, Steps())
    naive = [("int16",) * n + ("int8",) * (DEPTH - n) for n in range(DEPTH + 1)]
    assert space.first_that_meets(naive).widths.count("int16") == 7


def test_an_easy_budget_needs_no_search_and_an_impossible_one_says_so() -> None:
    easy = chosen(chain(bad=()), Budget(min_sqnr=5))
    assert set(easy.chosen.widths) == {"int8"} and len(easy.points) == 2 and not easy.findings
    hard = chosen(chain(bad=()), Budget(min_sqnr=150))
    assert set(hard.chosen.widths) == {"int16"} and [f.code for f in hard.findings] == ["PT460"]


def test_pins_are_obeyed_and_take_no_part() -> None:
    made = chosen(chain(bad=(3, 6)), Budget(min_sqnr=28), pins={"c6": "int16", "c[01]": "int8"})
    assert {path for unit in made.units for path in unit.layers} == {"c2", "c3", "c4", "c5", "c7"}
    assert "c3" in wide(made)
    with pytest.raises(PorterError, match="PT462"):
        chosen(chain(bad=()), Budget(min_sqnr=28), pins={"*": "int8"})


def test_a_metric_decides() -> None:
    graph = chain(bad=(3,))
    items = samples((1, 4, 6, 6), 6)
    calls = []

    def agreement(predict: Any) -> float:
        calls.append(1)
        votes = [predict(item)[0].argmax(1) == graph.run(item)[0].argmax(1) for item in items]
        return float(np.mean(votes))

    made = chosen(graph, Budget(max_drop=0.02, metric=agreement))
    assert made.float_metric == 1.0 and made.chosen.metric >= 0.98
    assert {"c2", "c3"} <= set(wide(made)) and len(wide(made)) <= 4 and len(calls) == 1 + len(made.points)


@pytest.mark.parametrize(
    "options",
    [{}, {"min_sqnr": 30, "max_drop": 0.1}, {"max_drop": 0.1}, {"metric": len}, {"min_sqnr": float("nan")},
     {"max_drop": -0.1, "metric": len}],
)  # fmt: skip
def test_a_budget_that_is_none(options: dict[str, Any]) -> None:
    with pytest.raises(PorterError, match="PT461"):
        Budget(**options)


def test_metrics_by_name(tmp_path: Path) -> None:
    path = tmp_path / "judges.py"
    path.write_text("def good(predict):\n    return 1\n\n\ndef bad(predict):\n    return 'much'\n\n\n"
                    "def fails(predict):\n    return 1 / 0\n")  # fmt: skip
    assert metric_by_name(f"{path}:good")(lambda item: []) == 1.0
    for name, code in (("bad", "PT461"), ("fails", "PT520")):
        judge = metric_by_name(f"{path}:{name}")
        with pytest.raises(PorterError, match=code):
            judge(lambda item: [])
    with pytest.raises(PorterError, match="PT515"):
        metric_by_name(f"{path}:none")


def test_quality_counts_columns_alike() -> None:
    """A large exact column does not hide a small one that is wrong by a tenth: (0 + 0.01) / 2 is 23 dB."""
    columns = Columns(1)
    columns.add(np.array([[1000.0, 1.0], [500.0, -1.0]]), np.array([[1000.0, 1.1], [500.0, -1.1]]))
    assert columns.sqnr[1] == pytest.approx(20)
    assert quality(0.005) == pytest.approx(23.01, abs=0.01) and quality(0) == 200


def test_tensors_between_ops_are_integers_too() -> None:
    graph = chain(bad=(3,))
    target = porter.Target.load("onnxruntime")
    data = open_data(samples((1, 4, 6, 6)), graph.inputs)
    made = mixed_precision(graph, target, Scheme.of(target), data, "min_max", Budget(min_sqnr=28))
    assert made.chosen.meets and 0 < made.layers["int16"] < DEPTH
    assert "act3" not in {path for unit in made.units for path in unit.layers}  # activations go with their layer
    hard = mixed_precision(graph, target, Scheme.of(target), data, "min_max", Budget(min_sqnr=95))
    assert hard.chosen.meets and hard.layers["float"] > 0 and not hard.findings


def test_auto_from_end_to_end(tmp_path: Path) -> None:
    graph = chain(bad=(3, 6))
    made = porter.quantize(graph, TARGET, samples((1, 4, 6, 6)), dtype="auto", min_sqnr=28, force=True)
    widths = {path: layer.width for path, layer in made.encodings.layers.items()}
    assert {path for path, width in widths.items() if width == "int16"} == {"c2", "c3", "c5", "c6"}
    assert made.encodings.dtype == "auto" and made.mixed is not None and made.ok
    made.save(tmp_path / "q")
    told = json.loads((tmp_path / "q/tradeoff.json").read_text())
    assert [entry["width"] for entry in told["layers"]] == [widths[f"c{i}"] for i in range(DEPTH)]
    assert sum(point["chosen"] for point in told["points"]) == 1
    root = ElementTree.fromstring((tmp_path / "q/tradeoff.svg").read_text())
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(made.mixed.points)
    assert len(tradeoff_svg(made.mixed)) > 1000
    with pytest.raises(PorterError, match="PT461"):
        porter.quantize(graph, TARGET, samples((1, 4, 6, 6)), dtype="int8", min_sqnr=28, force=True)
    with pytest.raises(PorterError, match="PT453"):
        porter.quantize(graph, TARGET, samples((1, 4, 6, 6)), dtype="int8", adaround=True, encodings=made.encodings,
                        force=True)  # fmt: skip
