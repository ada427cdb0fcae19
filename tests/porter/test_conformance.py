# SPDX-License-Identifier: Apache-2.0
"""The node tests of the onnx package: nothing crashes, and the reference outputs come out of every rewritten model. All
of them for the MLU270, samples for two more targets; ``make coverage`` runs all of them for all three."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks.coverage import conformance
from porter.target import Target

#: Parts of the whole run, for workers side by side; and the stride of the samples.
PARTS, STRIDE = 4, 7


def judged(result: conformance.Result) -> None:
    bad = [case for case in result.cases if case.outcome in ("wrong", "crash")]
    assert bad == []
    assert {case.cause.partition(":")[0] for case in result.of("refused")} <= {"PT507"}
    # Seeds without a reference, and a range of bfloat16 that neither runtime computes.
    assert all(case.cause == "the outputs are random" or "bfloat16" in case.name for case in result.of("not run"))
    assert len(result.of("reproduced")) > 0.98 * len(result.cases) > 200


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_node_test_for_the_mlu270(part):
    result = conformance.run("mlu270", stride=PARTS, offset=part)
    judged(result)
    verdicts = [case.verdict for case in result.cases]
    assert verdicts.count("as is") > 20 and verdicts.count("rewritten") > 30
    assert all(case.reason for case in result.cases if case.verdict == "left")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", [target for target in conformance.TARGETS if target != "mlu270"])
def test_a_sample_of_the_node_tests_for_other_targets(target):
    judged(conformance.run(target, stride=STRIDE, offset=conformance.TARGETS.index(target)))


def relu() -> onnx.ModelProto:
    return next(case for case in conformance.collected() if case.name == "test_relu").model


def test_another_result_is_wrong():
    case = next(case for case in conformance.collected() if case.name == "test_relu")
    assert conformance._compared(case, relu()) == ("reproduced", "")
    other = relu()
    other = onnx.ModelProto.FromString(other.SerializeToString())
    other.graph.node[0].op_type = "Abs"
    outcome, cause = conformance._compared(case, other)
    assert outcome == "wrong" and cause.startswith("onnxruntime: ") and "elements differ" in cause
    inputs, outputs = case.data_sets[0]
    impossible = replace(case, data_sets=[(inputs, [outputs[0] + 1])])
    assert conformance._compared(impossible, other)[0] == "not run"  # the original does not give that either


@pytest.mark.parametrize(
    ("got", "wanted", "why"),
    [
        ([], [np.zeros(2)], "0 outputs, not 1"),
        ([np.zeros(2, np.float32)], [np.zeros((2, 1), np.float32)], "shape (2,), not (2, 1)"),
        ([np.zeros(2, np.float32)], [np.zeros(2, np.int32)], "float32, not int32"),
        ([np.array([1, 2])], [np.array([1, 3])], "1 of 2 elements differ"),
        ([np.array([1.0, np.nan])], [np.array([1.0, np.nan])], None),
        ([np.array([1.0, 2.0])], [np.array([1.0, 2.1])], "1 of 2 elements differ"),
        ([[np.zeros(1), np.ones(1)]], [[np.zeros(1), np.zeros(1)]], "1 of 1 elements differ"),
        ([None], [None], None),
        ([None], [np.zeros(1)], "one of two is empty"),
        ([np.array(["a", "b"])], [np.array(["a", "c"], object)], "1 of 2 elements differ"),
    ],
)
def test_differences(got, wanted, why):
    case = conformance.collected()[0]
    assert list(conformance._differences(got, wanted, case)) == ([why] if why else [])


def test_a_crash_and_a_refusal_are_told_apart(monkeypatch):
    case = next(case for case in conformance.collected() if case.name == "test_relu")
    target = Target.load("mlu270")
    assert conformance._case(case, target).outcome == "reproduced"
    open_ = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])], "g",
            [helper.make_tensor_value_info("x", 1, ["n"])], [helper.make_tensor_value_info("y", 1, ["n"])],
        )
    )  # fmt: skip
    refused = conformance._case(replace(case, model=open_), target)
    assert refused.outcome == "refused" and refused.cause.startswith("PT507: ")
    monkeypatch.setattr(conformance, "rewrite", lambda *_args, **_more: 1 // 0)
    crashed = conformance._case(case, target)
    assert crashed.outcome == "crash" and crashed.cause == "ZeroDivisionError: integer division or modulo by zero"


def test_the_page_counts_every_test():
    result = conformance.run("mlu270", stride=300)
    case = result.cases[0]
    bad = replace(case, outcome="wrong", cause="1 of 2 elements differ")
    refused = replace(case, outcome="refused", cause="PT507: input 'x' has the shape [M]")
    page = conformance.page({"mlu270": conformance.Result([*result.cases, bad, refused])})
    cells = [
        cell.strip() for line in page.splitlines() if line.startswith("| mlu270") for cell in line.split("|")[2:-1]
    ]
    assert int(cells[0]) == len(result.cases) + 2 and int(cells[4]) == 1 and int(cells[3]) == 1
    assert f"- mlu270, wrong: {case.name}: 1 of 2 elements differ" in page
    assert "| PT507: input 'x' has the shape [M] |" in page


def test_tensors_of_data_sets_become_arrays():
    tensor = numpy_helper.from_array(np.arange(3, dtype=np.float32))
    one, none, several = conformance._array(tensor), conformance._array(None), conformance._array([tensor, 2])
    assert one.tolist() == [0, 1, 2] and none is None and [a.tolist() for a in several] == [[0, 1, 2], 2]
