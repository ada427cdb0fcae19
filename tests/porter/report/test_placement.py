# SPDX-License-Identifier: Apache-2.0
"""Where ops run on a target whose toolchain has a CPU of its own: the table Node, ON, Subgraph, Type."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def chain(*ops):
    """A model of 1 x 1 convolutions of 8 channels and elementwise ops in a row, named n0, n1, ..."""
    nodes, last = [], "x"
    for i, op in enumerate(ops):
        nodes.append(helper.make_node(op, [last, "w"] if op == "Conv" else [last], [f"v{i}"], f"n{i}"))
        last = f"v{i}"
    shape = [1, 8, 4, 4]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.full((8, 8, 1, 1), 0.1, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


@pytest.fixture
def table(porter, tmp_path):
    """A function: the rows that porter check prints of a model, and its exit code."""

    def rows(model, *options):
        onnx.save(model, tmp_path / "m.onnx")
        code, out, _ = porter("check", "-t", "x3", "m.onnx", *options)
        lines = out.splitlines()
        heads = [i for i, line in enumerate(lines) if line.split() == ["Node", "ON", "Subgraph", "Type"]]
        if not heads:
            return [], out, code
        found = lines[heads[0] + 1 :]
        return [line.split() for line in found[: found.index("")] if not line.startswith("and ")], out, code

    return rows


def test_what_stays_on_the_cpu_is_named(table):
    rows, _, code = table(chain("Conv", "Erf", "Conv"))
    assert rows == [["n1", "CPU", "--", "erf"]] and code == 0


def test_every_op_and_the_parts_of_the_accelerator(table):
    rows, _, _ = table(chain("Conv", "Erf", "Conv", "Asin", "Conv", "Conv"), "--verbose")
    assert rows == [
        ["n0", "x3", "id(0)", "conv2d"],
        ["n1", "CPU", "--", "erf"],
        ["n2", "x3", "id(1)", "conv2d"],
        ["n3", "CPU", "--", "asin"],
        ["n4", "x3", "id(2)", "conv2d"],
        ["n5", "x3", "id(2)", "conv2d"],
    ]


def test_nothing_on_the_cpu_is_no_table(table):
    assert table(chain("Conv", "Conv"))[0] == []
    assert [row[2] for row in table(chain("Conv", "Conv"), "-v")[0]] == ["id(0)", "id(0)"]


def test_a_long_list_is_cut(table):
    rows, out, _ = table(chain("Conv", *["Erf"] * 25))
    assert [row[0] for row in rows] == [f"n{i}" for i in range(1, 21)] and "and 5 more on the CPU (--verbose)" in out
