# SPDX-License-Identifier: Apache-2.0
"""Histograms of a report: nothing is lost, and the page that shows them holds the report unharmed."""

import json
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porter.ops import Origin
from porter.quantize.distribution import Distribution
from porter.quantize.report import LayerReport, QuantizationReport
from porter.report.quantization_html import quantization_html
from porter.verify import TensorError

VALUES = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(-10, 10, width=32))


@given(st.lists(VALUES, min_size=1, max_size=4), st.floats(-5, 0), st.floats(0.5, 5))
def test_every_value_is_counted_once(arrays, low, high):
    spread = Distribution(low, high, (low / 2, high / 2))
    for array in arrays:
        spread.add(array)
    flat = np.concatenate([a.ravel() for a in arrays]).astype(np.float64)
    assert spread.total == flat.size
    assert (spread.below, spread.above) == ((flat < low).sum(), (flat > high).sum())
    assert spread.clipped == ((flat < low / 2) | (flat > high / 2)).sum()
    assert spread.zeros == (flat == 0).sum()


def test_bars_by_hand():
    spread = Distribution(0.0, 4.0, (0.0, 3.0), bins=4)
    spread.add(np.array([0.0, 0.5, 1.0, 3.9, 4.0, 4.1, -1.0]))
    assert spread.counts.tolist() == [2, 1, 0, 2]
    assert (spread.below, spread.above, spread.zeros, spread.clipped) == (1, 1, 1, 4)


def test_a_constant_tensor_has_a_bar():
    spread = Distribution(3.0, 3.0, (3.0, 3.0))
    spread.add(np.full(5, 3.0))
    assert spread.counts.sum() == 5 and spread.low < 3 < spread.high


def test_the_page_holds_the_report():
    report = QuantizationReport("dev", "<m>.onnx", "int8", "min_max", 2, 1)
    error = TensorError("a")
    error.add(np.ones(3), np.array([1.0, 1.0, 0.5]))
    report.layers.append(
        LayerReport("</script><b>", "conv2d", Origin(), True, (0.0, 1.0), 0.1, (0.1, 0.1), error, error, "int8")
    )
    page = quantization_html(report)
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert embedded is not None
    data = json.loads(embedded[1])
    assert data["layers"][0]["path"] == "</script><b>" and data["model"] == "<m>.onnx"
    assert "<title>&lt;m&gt;.onnx" in page
    assert not re.search(r"(src|href)=", page), "nothing is fetched"
