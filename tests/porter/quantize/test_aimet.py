# SPDX-License-Identifier: Apache-2.0
"""AIMET's files: read as aimet-onnx 2.42.0 writes them, and what is written is read back the same."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter import PorterError
from porter.quantize.aimet import is_aimet, read_aimet

#: What aimet-onnx 2.42.0 exported for one network, shortened: a ReLU's output and a weight of two channels.
OLD = {
    "version": "0.6.1",
    "activation_encodings": {
        "out": [
            {"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "max": 8.07175407409668,
             "min": -5.1224593162536625, "offset": -99.0, "scale": 0.05174201329549154}
        ]
    },
    "param_encodings": {
        "w": [
            {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "max": 1.6809592517092824,
             "min": -1.6941951513290405, "offset": -128.0, "scale": 0.013235899619758129},
            {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "max": 1.2100020535290241,
             "min": -1.219529628753662, "offset": -128.0, "scale": 0.009527575224637985},
        ]
    },
}  # fmt: skip
MIDDLE = {
    "version": "1.0.0",
    "activation_encodings": [
        {"bw": 8, "dtype": "INT", "enc_type": "PER_TENSOR", "is_sym": False, "name": "out", "offset": [-99.0],
         "scale": [0.05174201329549154]}
    ],
    "param_encodings": [
        {"bw": 8, "dtype": "INT", "enc_type": "PER_CHANNEL", "is_sym": True, "name": "w", "offset": [-128.0, -128.0],
         "scale": [0.013235899619758129, 0.009527575224637985]}
    ],
}  # fmt: skip
NEW = {
    "version": "2.0.0",
    "encodings": [
        {"axis": 0, "name": "w", "output_dtype": "int8", "y_scale": [0.013235899619758129, 0.009527575224637985]},
        {"axis": 0, "name": "b", "output_dtype": "int32", "y_scale": [5.3e-05, 5.1e-05]},
        {"name": "out", "output_dtype": "uint8", "y_scale": 0.05174201329549154, "y_zero_point": 99},
    ],
}


@pytest.mark.parametrize("data", [OLD, MIDDLE, NEW], ids=["0.6.1", "1.0.0", "2.0.0"])
def test_the_three_versions_say_the_same(data):
    assert is_aimet(data)
    read = read_aimet(data)
    out, weight = read.activations["out"], read.parameters["w"]
    assert (out.dtype, out.zero_point, out.symmetric, out.axis) == ("uint8", (99,), False, None)
    assert out.minimum[0] == pytest.approx(-5.1224593162536625) and out.maximum[0] == pytest.approx(8.07175407409668)
    assert (weight.dtype, weight.zero_point, weight.symmetric, weight.axis) == ("int8", (0, 0), True, 0)
    assert weight.scale == (0.013235899619758129, 0.009527575224637985)
    assert weight.minimum[1] == pytest.approx(-1.219529628753662)


def test_what_porter_does_not_quantize_to_is_left_out_and_named():
    assert read_aimet(NEW).left_out == {"b": "int32"}
    four = copy.deepcopy(MIDDLE)
    four["param_encodings"][0]["bw"] = 4
    four["activation_encodings"][0]["dtype"] = "FLOAT"
    assert read_aimet(four).left_out == {"w": "int4", "out": "FLOAT"}


def test_an_integer_means_the_same_in_both():
    """real = (q + offset) * scale with q from 0, against real = (q - zero_point) * scale with porter's q."""
    read = read_aimet(MIDDLE)
    for name, offset, scale in (("out", -99, 0.05174201329549154), ("w", -128, 0.013235899619758129)):
        found = {**read.activations, **read.parameters}[name]
        for q in range(256):
            mine = q + np.iinfo(found.dtype).min
            assert (mine - found.zero_point[0]) * found.scale[0] == pytest.approx((q + offset) * scale, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["param_encodings"][0].update(scale=[0.0, 1.0]), "w: scale is not above 0"),
        (lambda d: d["param_encodings"][0].update(scale=[float("nan"), 1.0]), "w: scale is not a finite number"),
        (lambda d: d["param_encodings"][0].update(offset=[-128]), "offset has 1 numbers for 2 scales"),
        (lambda d: d["param_encodings"][0].update(offset=[-128, 5]), "puts the zero outside int8"),
        (lambda d: d["activation_encodings"][0].update(is_sym="no"), "out: is_sym is not true or false"),
        (lambda d: d["activation_encodings"][0].update(bw="8"), "out: bw is not a finite number"),
        (lambda d: d["activation_encodings"][0].pop("name"), "name is not a text"),
        (lambda d: d.update(param_encodings={"w": 1}), "param_encodings is not a list"),
        (lambda d: d.update(version="7"), "in version '7'"),
    ],
)
def test_bad_files(change, told):
    data = copy.deepcopy(MIDDLE)
    change(data)
    with pytest.raises(PorterError, match=told) as error:
        read_aimet(data, "some.encodings")
    assert error.value.code == "PT481"


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                    max_leaves=8), st.sampled_from(["0.6.1", "1.0.0", "2.0.0"]))  # fmt: skip
def test_whatever_a_file_holds_it_is_read_or_refused(junk, version):
    for data in (junk, {"version": version, "encodings": junk, "activation_encodings": junk}):
        try:
            read_aimet(data)
        except PorterError as error:
            assert error.code == "PT481"
