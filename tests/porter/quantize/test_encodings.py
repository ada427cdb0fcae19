# SPDX-License-Identifier: Apache-2.0
"""The JSON of encodings: exact round trips, and every mistake named by its key."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter.errors import PorterError
from porter.quantize.encodings import Encoding, Encodings, Layer


def example():
    channels = np.array([1.0, 0.0, 3.0])
    return Encodings(
        target="mlu270",
        model="m.onnx",
        dtype="int8",
        rounding="half_even",
        samples=3,
        layers={"a.conv": Layer("conv2d", ("x", "y"), ("u", "v"), True, True, (3, 2, 1, 1), "0" * 32)},
        weights={"a.conv": Encoding.from_range(-channels, channels, "int8", "min_max", axis=0)},
        activations={
            "x": Encoding.from_range(-1.5, 0.25, "int8", "min_max"),
            "y": Encoding.from_range(-0.1, 7.0, "int8", "percentile(99.9)"),
        },
    )


def test_round_trip():
    encodings = example()
    assert Encodings.from_json(json.loads(json.dumps(encodings.to_json()))) == encodings


@given(
    st.floats(0, 1e30),
    st.floats(0, 1e30),
    st.sampled_from(["int8", "int16"]),
    st.sampled_from(["absmax", "power_of_two"]),
)
def test_any_range_round_trips(low, high, dtype, rule):
    encodings = example()
    encodings.activations["x"] = Encoding.from_range(-low, high, dtype, "min_max", rule)
    again = Encodings.from_json(json.loads(json.dumps(encodings.to_json())))
    assert again == encodings
    assert again.activations["x"].step.dtype == np.float32


def test_the_widest_input_of_a_module_counts():
    assert example().input_of("a.conv").absmax == (7.0,)


def test_zero_range_is_scale_one():
    assert example().weights["a.conv"].scale[1] == 1.0


MISTAKES = [
    (lambda d: d.pop("format"), "no file of encodings"),
    (lambda d: d.update(schema_version="3.0"), "schema_version: is 3.0"),
    (lambda d: d.update(schema_version=1), "schema_version: must be a string"),
    (lambda d: d.update(dtype=4), "dtype: must be a string"),
    (lambda d: d.update(schema_version="1.0", dtype="int4"), "dtype: is 'int4'"),
    (lambda d: d.update(flow="values"), "flow: is 'values'"),
    (lambda d: d["activations"]["x"].update(dtype="uint8"), "no negative numbers"),
    (lambda d: d["operands"].update(b=d["activations"]["x"]), "b is no layer"),
    (lambda d: d.update(samples=-1), "samples: must be an integer"),
    (lambda d: d.pop("target"), "target: is missing"),
    (lambda d: d.update(layers=[]), "layers: must be an object"),
    (lambda d: d["layers"]["a.conv"].update(inputs=["x"]), "one for each of outputs"),
    (lambda d: d["layers"]["a.conv"].update(inputs=[1, 2]), "list of strings"),
    (lambda d: d["layers"]["a.conv"].update(quantized=1), "must be true or false"),
    (lambda d: d["layers"]["a.conv"].update(shape=[3.5]), "list of integers"),
    (lambda d: d["weights"].clear(), "no entry for the layer a.conv"),
    (lambda d: d["activations"].pop("y"), "no entry for y, which enters a.conv"),
    (lambda d: d["weights"]["a.conv"].update(axis=1), "3 scales do not fit axis 1"),
    (lambda d: d["weights"]["a.conv"].update(axis=9), "do not fit axis 9"),
    (lambda d: d["activations"]["x"].update(scale=[0.0]), "must be positive"),
    (lambda d: d["activations"]["x"].update(scale=[-1.0]), "must be positive"),
    (lambda d: d["activations"]["x"].update(scale=[float("nan")]), "finite numbers"),
    (lambda d: d["activations"]["x"].update(scale=["1"]), "finite numbers"),
    (lambda d: d["activations"]["x"].update(scale=[]), "there must be one"),
    (lambda d: d["activations"]["x"].update(minimum=[9.0]), "greater than maximum"),
    (lambda d: d["activations"]["x"].update(minimum=[0.0, 0.0]), "has 2 numbers"),
    (lambda d: d["activations"]["x"].update(zero_point=[3]), "must be 0 when symmetric"),
    (lambda d: d["activations"]["x"].update(zero_point=[300], symmetric=False), "within -128..127"),
    (lambda d: d["activations"]["x"].update(position=[1, 2]), "position"),
    (lambda d: d["activations"].update(x=3), "is not a JSON object"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes(change, message, tmp_path):
    data = copy.deepcopy(json.loads(json.dumps(example().to_json())))
    change(data)
    path = tmp_path / "e.json"
    path.write_text(json.dumps(data))
    with pytest.raises(PorterError) as error:
        Encodings.load(path)
    assert error.value.code == "PT412"
    assert error.value.where == str(path)
    assert message in error.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\x00", '{"format": 3}', "[" * 100_000])
def test_what_is_no_json_object(text, tmp_path):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(PorterError) as error:
        Encodings.load(tmp_path / "e.json")
    assert error.value.code == "PT412"


def test_a_missing_file(tmp_path):
    with pytest.raises(PorterError) as error:
        Encodings.load(tmp_path / "none.json")
    assert error.value.code == "PT501"
