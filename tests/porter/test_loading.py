# SPDX-License-Identifier: Apache-2.0
"""What the user types, and what is said when it is wrong."""

import sys

import numpy as np
import pytest

from porter.errors import PorterError
from porter.loading import load, parse_input, parse_inputs, parse_model_arg
from porter.usercode import call_by_name


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("images:1x3x640x640", ("images", (1, 3, 640, 640), None)),
        ("1x3x8x8", (None, (1, 3, 8, 8), None)),
        ("ids:1x128:int64", ("ids", (1, 128), "int64")),
        ("a:b:2x2", ("a:b", (2, 2), None)),
        ("scale:scalar", ("scale", (), None)),
        ("n:7", ("n", (7,), None)),
    ],
)
def test_inputs_are_read(text, spec):
    assert parse_input(text) == spec


@pytest.mark.parametrize("text", ["images", "images:1x-3", "images:axb", "images:1x3:float33", "images:1x0x3", ""])
def test_a_wrong_input_says_how_to_write_it(text):
    with pytest.raises(PorterError) as caught:
        parse_input(text)
    assert caught.value.code == "PT519" and caught.value.where == "--input" and caught.value.fix


def test_the_api_takes_shapes_in_many_forms():
    assert parse_inputs({"x": (1, 3), "y": ((2,), np.int64), "z": np.zeros((4, 5), np.float16), "w": "6x7"}) == [
        ("x", (1, 3), None), ("y", (2,), "int64"), ("z", (4, 5), "float16"), ("w", (6, 7), None),
    ]  # fmt: skip
    assert parse_inputs((1, 3, 8, 8)) == [(None, (1, 3, 8, 8), None)]
    assert parse_inputs([(1, 3), (2, 4)]) == [(None, (1, 3), None), (None, (2, 4), None)]
    assert parse_inputs(np.zeros((2, 2), np.float32)) == [(None, (2, 2), "float32")]
    assert parse_inputs("x:1x3") == [("x", (1, 3), None)]
    assert parse_inputs(None) == []


def test_model_arguments_are_json_where_they_are_json():
    assert parse_model_arg("num_classes=5") == ("num_classes", 5)
    assert parse_model_arg("decode=legacy") == ("decode", "legacy")
    assert parse_model_arg("act=null") == ("act", None)
    assert parse_model_arg("a=b=c") == ("a", "b=c")
    with pytest.raises(PorterError, match="PT519"):
        parse_model_arg("num_classes")


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "netpack"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(
        "from netpack import helper\ndef small():\n    return helper.VALUE\nnumber = 3\nclass Outer:\n"
        "    @staticmethod\n    def inner():\n        return 'inner'\n"
    )
    (folder / "helper.py").write_text("VALUE = 'made'\n")
    (folder / "broken.py").write_text("import math\n\nraise RuntimeError('no card')\n")
    (folder / "needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "netpack"]:
        del sys.modules[name]


def test_a_factory_is_found_by_module_and_by_file(package):
    assert call_by_name("netpack.nets:small", "--model")() == "made"
    assert call_by_name("netpack/nets.py:small", "--model")() == "made"
    assert call_by_name("netpack.nets:Outer.inner", "--model")() == "inner"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("netpack.nets", "PT515", "not module:function"),
        ("netpack.nets:smal", "PT515", "no 'smal'"),
        ("netpack.nets:number", "PT515", "is a int, not a function"),
        ("netpack.nothere:x", "PT515", "no module netpack.nothere"),
        ("nothere.py:x", "PT515", "no file nothere.py"),
        ("netpack.broken:x", "PT520", "no card"),
        ("netpack.needy:x", "PT520", "a_package_that_is_not_there"),
    ],
)
def test_a_wrong_factory_says_what_is_wrong(package, name, code, words):
    with pytest.raises(PorterError) as caught:
        call_by_name(name, "--model")
    assert caught.value.code == code and words in str(caught.value)


def test_the_nearest_name_is_offered(package):
    with pytest.raises(PorterError, match="Did you mean small"):
        call_by_name("netpack.nets:smal", "--model")


def test_the_users_own_line_is_named(package):
    with pytest.raises(PorterError, match=r"broken\.py:3"):
        call_by_name("netpack.broken:x", "--model")


@pytest.mark.parametrize("model", [3, {"a": 1}, np.zeros(3)])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(PorterError, match="PT503"):
        load(model)


def test_nothing_at_all_is_refused():
    with pytest.raises(PorterError, match="PT503"):
        load()
