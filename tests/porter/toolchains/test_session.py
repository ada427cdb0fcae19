# SPDX-License-Identifier: Apache-2.0
"""A compiler is asked in a process of its own: what it refuses, crashes on, hangs on, places and computes."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from porter.errors import PorterError
from porter.toolchains import environment, session
from porter.toolchains.ask import Asker
from porter.toolchains.cases import at, base_case, cases
from porter.toolchains.catalogue import SPECS
from porter.toolchains.session import Answer, Session, score


@pytest.mark.parametrize(
    ("kind", "placement", "stage", "message"),
    [
        ("relu", "accelerator", "simulate", ""),
        ("sigmoid", "cpu", "simulate", ""),
        ("tanh", "wrong", "simulate", "output 0 has cosine 0.0000"),
        ("erf", "refused", "compile", "NotImplementedError: no Erf"),
        ("sin", "refused", "compile", "the compiler crashed: SIGABRT"),
        ("cos", "refused", "compile", "no answer within 3 s"),
    ],
)
def test_placement(fake: Path, kind: str, placement: str, stage: str, message: str) -> None:
    with Asker("fake", "fake", limit=3.0) as asker:
        answer = asker.case(base_case(SPECS[kind])).answer
        assert (answer.placement, answer.stage, answer.message) == (placement, stage, message)
        assert bool(answer.cpu) == (placement == "cpu") and bool(answer.reasons) == (placement == "cpu")
        assert asker.case(base_case(SPECS["relu"])).placement == "accelerator"  # the session outlives it


def test_a_refusal_keeps_its_first_line_and_the_log(fake: Path) -> None:
    kernel = next(varied for varied in SPECS["conv2d"].varied if getattr(varied, "fact", "").startswith("max(kernel"))
    with Asker("fake", "fake") as asker:
        answer = asker.case(at(SPECS["conv2d"], kernel, 9)).answer
    assert answer.message == "ValueError: kernels are at most 7"
    assert {"the fake compiler begins", "ValueError: kernels are at most 7"} <= set(answer.log)


def test_the_artifact_is_kept_where_it_is_asked_for(fake: Path, tmp_path: Path) -> None:
    from porter.dialects.onnx import OnnxGraph

    case = base_case(SPECS["relu"])
    graph = OnnxGraph.from_ops(case.ops, case.inputs, case.outputs, "t", 13)
    feeds = [{"x": np.ones(case.inputs[0].shape or (), np.float32)}]
    with Asker("fake", "fake") as asker:
        answer = asker.model("m", graph, feeds, keep=tmp_path).answer
    assert answer.artifact == tmp_path / "model.fake" and answer.artifact.read_text() == "42"
    assert answer.cosine == pytest.approx(1)


def test_answers_are_kept_by_version(fake: Path, tmp_path: Path) -> None:
    kept = tmp_path / "answers.jsonl"
    case = base_case(SPECS["sigmoid"])
    with Asker("fake", "fake", kept) as asker:
        first = asker.case(case)
    with kept.open("a") as file:
        file.write('{"name": "half a li')  # as an interrupted run leaves it
    python = environment.folder("fake") / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    with Asker("fake", "fake", kept) as asker:
        again = asker.case(case)
        assert (again.placement, again.kinds) == (first.placement, first.kinds) == ("cpu", ("sigmoid",))
        with pytest.raises(PorterError, match="PT783"):
            asker.case(base_case(SPECS["relu"]))
    mark = environment.folder("fake") / "porter.json"
    mark.write_text(json.dumps({"packages": [["fake==1.0"]], "versions": {"fake": "1.1"}}))
    environment.versions.cache_clear()
    with Asker("fake", "fake", kept) as asker, pytest.raises(PorterError, match="PT783"):
        asker.case(case)


def test_errors_say_what_to_do(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PorterError, match="PT780") as error:
        environment.adapter("vella")
    assert "vela" in str(error.value.fix)
    with pytest.raises(PorterError, match="PT780"):
        Session("fake", "mlu270")
    with pytest.raises(PorterError, match="PT781") as error:
        environment.interpreter("vela")
    assert "porter targets install vela" in str(error.value.fix)
    monkeypatch.setattr(environment, "find_python", lambda _wanted: None)
    with pytest.raises(PorterError, match="PT782") as error:
        environment.install("nncase")
    assert "3.10" in error.value.message and not environment.folder("nncase").exists()


def test_a_proprietary_compiler_is_installed_for_who_accepts_its_licence(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "find_python", lambda _wanted: None)
    with pytest.raises(PorterError, match="PT785") as error:
        environment.install("rknn")
    assert "--accept-proprietary-licence" in str(error.value.fix) and not environment.folder("rknn").exists()
    with pytest.raises(PorterError, match="PT782"):  # it goes on, to look for a Python
        environment.install("rknn", accept_licence=True)
    assert "--accept-proprietary-licence" in str(environment.missing("rknn").fix)
    assert "--accept" not in str(environment.missing("vela").fix)
    with pytest.raises(PorterError, match="PT780"):
        Session("rknn", "ethos-u55")


def test_the_layers_of_the_report_of_rknn() -> None:
    from porter.toolchains.rknn import _LAYER

    printed = """D RKNN: [02:35:35.879] ID   OpType    DataType Target InputShape   OutputShape   Cycles RW(KB) FullName
D RKNN: [02:35:35.879] 0    InputOperator  INT8     CPU    \\            (1,3,32,32)   0/0/0    0   InputOperator:in
D RKNN: [02:35:35.879] 1    Conv           INT8     NPU    (1,3,32,32)  (1,8,32,32)   883/9/9  4   Conv:a
D RKNN: [02:35:35.880] 5    Reshape        FLOAT16  CPU    (32,8),(3)   (1,32,8)      0/0/0    8   Reshape:y-rs
D RKNN: [02:35:35.880] 1   Conv    w        INT8      (8,3,3,3)    | 0x00000000 0x00000480 0x00000480
"""
    assert _LAYER.findall(printed) == [
        ("InputOperator", "CPU", "InputOperator:in"), ("Conv", "NPU", "Conv:a"), ("Reshape", "CPU", "Reshape:y-rs")
    ]  # fmt: skip


def test_other_pins_are_another_environment(fake: Path) -> None:
    assert environment.ready("fake")
    mark = environment.folder("fake") / "porter.json"
    mark.write_text('{"packages": [["fake==0.9"]], "versions": {}}')
    assert not environment.ready("fake")
    mark.write_text("{")
    assert not environment.ready("fake")


def test_a_failed_install_leaves_nothing(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_python", lambda _wanted: "/bin/false")
    with pytest.raises(PorterError, match="PT782"):
        environment.install("ncnn")
    assert not environment.folder("ncnn").exists()


IMAGE = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) - 7


def test_score_takes_channels_last_and_missing_axes() -> None:
    for got in (IMAGE, np.moveaxis(IMAGE, 1, -1), IMAGE[0]):
        assert score([IMAGE], [got], "float") == (pytest.approx(1), pytest.approx(1), 0, "")


def test_score_says_what_is_wrong() -> None:
    assert "shape" in score([IMAGE], [IMAGE[..., :2]], "float")[3]
    assert score([IMAGE], [IMAGE * 2], "float")[3] == "output 0 is 2 times as large"
    assert "cosine" in score([IMAGE], [-IMAGE], "int8")[3]
    assert "cosine" in score([IMAGE], [IMAGE * np.nan], "int8")[3]
    worst, column, dead, problem = score([IMAGE], [np.concatenate([IMAGE[:, :1] * 0, IMAGE[:, 1:]], 1)], "int8")
    assert (dead, column) == (1, 0.0) and worst > 0.9 and "cosine" in problem


def test_score_of_integers_is_the_share_that_agrees() -> None:
    wanted = np.arange(20)
    assert score([wanted], [wanted.astype(np.float32)], "int8") == (1.0, 1.0, 0, "")
    got = wanted.copy()
    got[:2] = 99
    assert score([wanted], [got], "int8")[0] == 0.9 and not score([wanted], [got], "int8")[3]
    got[2] = 99
    assert score([wanted], [got], "int8")[3] == "output 0 agrees in 85% of its elements"


def test_an_answer_survives_json() -> None:
    answer = Answer("cpu", "simulate", "", ("A a",), ("", ""), ("why",), 0.5, 0.25, 3, 1.5)
    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


@pytest.mark.parametrize("name", [*environment.NAMES, "worker"])
def test_what_runs_in_a_toolchain_is_old_python_and_imports_nothing_of_porter(name: str) -> None:
    path = Path(session.__file__).parent / f"{environment.NAMES.get(name, name)}.py"
    oldest = (3, 12) if name == "vela" else (3, 10)
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=oldest)
    plain = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    roots = {alias.name.partition(".")[0] for node in plain for alias in node.names}
    roots |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots <= set(sys.stdlib_module_names)


@pytest.mark.toolchain
@pytest.mark.parametrize("name", sorted(environment.NAMES))
def test_a_real_compiler(name: str) -> None:
    if not environment.ready(name):
        pytest.skip(f"{environment.missing(name).message}; porter targets install {name}")
    target = next(iter(environment.adapter(name).TARGETS))
    with Asker(name, target) as asker:
        for kind in ("conv2d", "relu", "cat"):
            said = asker.case(base_case(SPECS[kind]))
            assert said.placement == "accelerator", (kind, said.answer)
        refused = "selu" if name == "tpu-mlir" else "nms"
        assert asker.case(base_case(SPECS[refused])).placement in ("refused", "wrong")


def test_every_kind_has_an_ordinary_case() -> None:
    from porter.dialects.onnx import OnnxGraph
    from porter.toolchains.cases import random_feeds

    for spec in SPECS.values():
        case = next(iter(cases(spec)))
        graph = OnnxGraph.from_ops(case.ops, case.inputs, case.outputs, "t", 13)
        outputs = graph.run([random_feeds(case, 0)[value.name] for value in graph.inputs])
        assert all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f"), case.name
