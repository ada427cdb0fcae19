# SPDX-License-Identifier: Apache-2.0
"""What follows from a compiler's answers: limits, where they are found, and the target file that is written."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from porter.errors import PorterError
from porter.limits import parse
from porter.op_facts import fact_names
from porter.probe import Measured, derive, entries_text, probe, raw_entries
from porter.target import Target
from porter.toolchains import make
from porter.toolchains.ask import Said, verdict_of
from porter.toolchains.cases import Case, base_case, cases, combinations, led, random_feeds
from porter.toolchains.catalogue import SPECS
from porter.toolchains.session import Answer, Placement


def said(case: Case, place: Placement, message: str = "no") -> tuple[Case, Said]:
    return case, Said(case.name, Answer(place, "compile", "" if place == "accelerator" else message), (case.kind,))


def outcomes(kind: str, bad: dict[str, Placement]) -> list[tuple[Case, Said]]:
    """Every case of a kind; those whose label is a key do not run."""
    every = list(cases(SPECS[kind]))
    assert set(bad) <= {case.label for case in every}
    return [said(case, bad.get(case.label, "accelerator")) for case in every]


def exprs(made: Measured, key: str = "limits") -> list[str]:
    return [limit["expr"] for limit in made.entry.get(key, ())]


TARGET = Target.load("ncnn")  # nothing of it falls back to a host
HOST = Target.load("ethos-u55")  # what breaks a limit goes to the host


def test_all_that_runs_needs_no_limit() -> None:
    made = derive(SPECS["relu"], outcomes("relu", {}), None, TARGET, "probed")
    assert made.entry == {"certainty": "measured", "source": "probed"}
    assert (made.asked, made.accepted, made.unexplained) == (4, 4, ())


def test_a_number_ends_where_it_stops_running_or_was_not_tried() -> None:
    label = "max(stride_h, stride_w) == {}"
    made = derive(SPECS["conv2d"], outcomes("conv2d", {label.format(n): "refused" for n in (4, 5, 8)}),
                  {"const_inputs": ["weight", "bias"]}, TARGET, "probed")  # fmt: skip
    assert "max(stride_h, stride_w) <= 3" in exprs(made)
    guesses = [limit["expr"] for limit in made.entry["limits"] if limit["certainty"] == "unknown"]
    assert guesses == ["max(kernel_h, kernel_w) <= 16", "max(dilation_h, dilation_w) <= 4"]
    assert made.entry["const_inputs"] == ["weight", "bias"] and not made.unexplained


def test_a_number_that_runs_only_here_and_there_is_listed() -> None:
    bad: dict[str, Placement] = {f"max(kernel_h, kernel_w) == {n}": "wrong" for n in (1, 2, 7, 11, 16)}
    made = derive(SPECS["conv2d"], outcomes("conv2d", bad), None, TARGET, "probed")
    assert "max(kernel_h, kernel_w) in (3, 5, 9)" in exprs(made)


def test_a_property_is_negated() -> None:
    made = derive(
        SPECS["conv2d"], outcomes("conv2d", {"depthwise": "refused", "in_n > 1": "refused"}), None, TARGET, "p"
    )
    assert {"not depthwise", "in_n <= 1"} <= set(exprs(made))


def test_what_never_runs_is_nowhere_or_on_the_host() -> None:
    every = {case.label: "refused" for case in cases(SPECS["elu"])}
    assert derive(SPECS["elu"], outcomes("elu", every), None, HOST, "p").entry["device"] == "none"
    every = {**dict.fromkeys(every, "cpu"), "rank == 5": "wrong"}
    made = derive(SPECS["elu"], outcomes("elu", every), None, HOST, "p")
    assert made.entry["device"] == "host" and exprs(made, "host_limits") == ["rank != 5"]


def test_only_some_run() -> None:
    made = derive(
        SPECS["gelu"], outcomes("gelu", {"plain": "cpu", "rank == 2": "cpu", "rank == 3": "cpu"}), None, HOST, "p"
    )
    assert exprs(made) == ["approximate == 'tanh'"] and "host_limits" not in made.entry


def test_a_limit_that_the_compiler_does_not_have_goes_unless_the_device_is_another_matter() -> None:
    known: dict[str, Any] = {
        "limits": [
            {"expr": "stride_h <= 2", "why": "the book", "certainty": "certain", "source": "book"},
            {"expr": "out_channels <= 4096", "why": "the book", "certainty": "certain", "source": "book"},
            {"expr": "kernel_h <= 3", "why": "nobody tried", "certainty": "unknown", "source": "book"},
            {"expr": "in_w <= 9999", "why": "nobody tried", "certainty": "unknown", "source": "book"},
            {"expr": "kernel_h <= 9", "why": "measured before", "certainty": "measured", "source": "probed"},
        ]
    }
    made = derive(SPECS["conv2d"], outcomes("conv2d", {}), known, TARGET, "probed")
    assert "out_channels <= 4096" in exprs(made) and not {"stride_h <= 2", "kernel_h <= 3", "kernel_h <= 9"} & set(
        exprs(made)
    )
    assert len(made.contradicted) == 1 and "stride_h <= 2" in made.contradicted[0]
    kept = derive(SPECS["conv2d"], outcomes("conv2d", {}), known, TARGET, "probed", proves=False)
    assert "stride_h <= 2" in exprs(kept) and not kept.contradicted and kept.unexplained


def test_a_host_limit_is_the_limit_that_forbids() -> None:
    known = {"limits": [{"expr": "stride_h <= 3", "why": "the book", "certainty": "certain", "source": "book"}]}
    bad: dict[str, Placement] = {f"max(stride_h, stride_w) == {n}": "refused" for n in (4, 5, 8)}
    made = derive(SPECS["conv2d"], outcomes("conv2d", bad), known, HOST, "p")
    assert exprs(made, "host_limits") == ["stride_h <= 3"]
    bad["max(stride_h, stride_w) == 5"] = "cpu"
    made = derive(SPECS["conv2d"], outcomes("conv2d", bad), known, HOST, "p")
    assert exprs(made, "host_limits") == ["max(stride_h, stride_w) != 4", "max(stride_h, stride_w) != 8"]


def test_dtypes_that_were_seen_are_named() -> None:
    made = derive(SPECS["gt"], outcomes("gt", {}), None, TARGET, "p")
    assert made.entry["output_dtypes"] == [["bool"]]
    made = derive(SPECS["where"], outcomes("where", {}), None, TARGET, "p")
    assert made.entry["operand_dtypes"]["condition"] == ["bool", "float32"]


def test_probe_bisects_and_writes_a_target(fake: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "my_target.toml", []
    made = probe("fake", out, kinds=["conv2d", "tanh", "sigmoid", "erf"], target=str(fake), limit=5.0,
                 progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    target = Target.load(out)
    assert target.extends == str(fake) and "fake 1.0" in target.sources["probed"].cite
    conv = target.ops["conv2d"]
    assert conv.certainty == "measured" and "fake 1.0" in conv.source
    texts = {limit.expr.text: limit for limit in conv.limits}
    # 7 runs and 9 does not: 8 was asked about too
    assert texts["max(kernel_h, kernel_w) <= 7"].certainty == "measured"
    assert texts["out_channels <= 4096"].certainty == "certain" and "kernel_h <= 3" not in texts
    assert "stride_h <= 2" not in texts and "stride_h <= 2" in made.kinds[0].contradicted[0]
    assert target.ops["tanh"].device == target.ops["erf"].device == "none"
    assert target.ops["sigmoid"].device == "host"
    assert seen[0] == (0, 4) and seen[-1] == (4, 4)
    assert not any(one.unexplained for one in made.kinds)
    # every answer is kept: the toolchain is not started a second time
    (tmp_path / "chains" / "fake" / "bin" / "python").write_text("#!/bin/sh\nexit 7\n")
    with pytest.raises(PorterError, match="PT512"):
        probe("fake", out, kinds=["tanh"], target=str(fake))
    again = probe("fake", out, kinds=["conv2d", "tanh"], target=str(fake), overwrite=True)
    assert [one.entry for one in again.kinds] == [one.entry for one in made.kinds[:2]]


def test_probe_refuses_what_it_cannot_ask(fake: Path, tmp_path: Path) -> None:
    for arguments, text in (({"kinds": ["conv9d"]}, "conv9d"), ({"target": "mlu270"}, "mlu270")):
        with pytest.raises(PorterError, match="PT780") as error:
            probe("fake", tmp_path / "t.toml", **arguments)  # type: ignore[arg-type]
        assert text in error.value.message
    with pytest.raises(PorterError, match="PT781"):
        probe("ncnn", tmp_path / "t.toml")
    assert not (tmp_path / "t.toml").exists()


def test_entries_that_say_the_same_share_a_group() -> None:
    limits = [{"expr": 'mode == "a"', "why": 'say "no" \\ now', "certainty": "measured"}]
    entries = {
        "relu": {"source": "p"},
        "tanh": {"source": "p"},
        "resize": {"limits": limits, "output_dtypes": [["bool"]]},
    }
    data = tomllib.loads(entries_text(entries))
    assert data["group"] == [{"kinds": ["relu", "tanh"], "source": "p"}]
    assert data["ops"]["resize"] == entries["resize"]


def test_raw_entries_follow_extends(fake: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f'[target]\nname = "own"\nextends = "{fake}"\n[ops.tanh]\ndevice = "none"\n')
    found = raw_entries(own)
    assert found["tanh"]["device"] == "none" and found["erf"] == {"certainty": "certain", "source": "book"}
    assert [limit["certainty"] for limit in found["conv2d"]["limits"]] == ["certain", "unknown", "certain"]


def test_conditions_hold_for_their_own_cases() -> None:
    for spec in SPECS.values():
        names = fact_names(spec.kind)
        for case in (*cases(spec), *combinations(spec, 4, 0)):
            if case.label != "plain":
                holds = parse(case.label, names).holds(lambda name, op=case.op, names=names: names[name](op))  # type: ignore[misc]
                assert holds == (True, ""), case.name


def test_combinations_are_the_same_for_a_seed_and_others_for_another() -> None:
    names = [[case.label for case in combinations(SPECS["conv2d"], 4, seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2] and len(names[0]) == 4
    assert all(" and " in label for label in names[0])


def test_a_convolution_in_front_changes_nothing() -> None:
    from porter.dialects.onnx import OnnxGraph

    case = base_case(SPECS["cat"])
    with_conv = led(case, (4,), (4,))
    assert [op.kind for op in with_conv.ops] == ["conv2d", "conv2d", "cat", "conv2d"]
    assert led(case, (3,)).ops == case.ops and len(with_conv.outputs) == 1
    feeds = random_feeds(case, 0)
    plain, other = (
        OnnxGraph.from_ops(one.ops, one.inputs, one.outputs, "t", 13).run(list(feeds.values()))
        for one in (case, with_conv)
    )
    assert (plain[0] == other[0]).all()


def test_the_verdict_of_a_model_is_that_of_its_worst_op() -> None:
    from porter.dialects.onnx import OnnxGraph

    def graph(kind: str) -> OnnxGraph:
        case = base_case(SPECS[kind])
        return OnnxGraph.from_ops(case.ops, case.inputs, case.outputs, "t", 13)

    assert verdict_of(graph("relu"), TARGET) == ("native", [])
    verdict, reasons = verdict_of(graph("nms"), TARGET)
    assert verdict == "unsupported" and reasons[0].startswith("nms: ")
    assert verdict_of(graph("exp"), HOST)[0] == "host"


def test_shapes_differ_along_every_axis() -> None:
    for shape in (*make.RANKS.values(), make.IMAGE):
        assert len({n for n in shape if n > 1}) == len([n for n in shape if n > 1])
    assert replace(base_case(SPECS["relu"]), label="x").name == "relu [x]"
