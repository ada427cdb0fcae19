# SPDX-License-Identifier: Apache-2.0
"""flatten, squeeze, unsqueeze, chains of reshapes, identity."""

import numpy as np
import pytest
from harness import Around, apply, build, check, noise, refuse
from reference import run

from porter.registry import rules
from porter.rewrite import NotApplicable


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 3), (1, 2), (2, 3), (3, 3)])
def test_flatten(start: int, end: int) -> None:
    check("view_to_reshape", "flatten", [noise(2, 3, 4, 5)], start=start, end=end)


@pytest.mark.parametrize("axes", [(0,), (0, 2), (2,), ()])
def test_squeeze(axes: tuple[int, ...]) -> None:
    check("view_to_reshape", "squeeze", [noise(1, 3, 1, 5)], axes=axes)


@pytest.mark.parametrize("axes", [(0,), (0, 2), (3,), (1, 4)])
def test_unsqueeze(axes: tuple[int, ...]) -> None:
    check("view_to_reshape", "unsqueeze", [noise(2, 3, 4)], axes=axes)


@pytest.mark.parametrize(
    ("old", "new"), [((1, 8, 1, 1), (1, 8)), ((2, 3, 4), (24,)), ((2, 3, 4, 5), (2, 12, 5)), ((2, 3, 4), (2, 12))]
)
def test_reshape_to_flatten(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    check("reshape_to_flatten", "reshape", [noise(*old)], shape=new)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ((2, 6), (2, 2, 3), "does not join"),
        ((2, 3, 4), (4, 6), "more than join"),
        ((4, 3, 2), (2, 12), "more than join"),
    ],
)
def test_reshape_to_flatten_refuses(old: tuple[int, ...], new: tuple[int, ...], reason: str) -> None:
    refuse("reshape_to_flatten", "reshape", [noise(*old)], reason, shape=new)


def test_merge_reshapes() -> None:
    x = noise(2, 3, 4)
    first, feeds = build("flatten", [x], {"start": 1, "end": 2}, "a")
    second, _ = build("unsqueeze", [first.outputs[0]], {"axes": (0,)}, "b")
    third, _ = build("reshape", [second.outputs[0]], {"shape": (4, 6)}, "c")
    fragment = apply("merge_reshapes", third, Around([first, second]))
    assert [op.kind for op in fragment.ops] == ["reshape"]
    np.testing.assert_array_equal(run(fragment, feeds)[0], x.reshape(4, 6))
    back, _ = build("reshape", [second.outputs[0]], {"shape": (2, 3, 4)}, "d")
    assert apply("merge_reshapes", back, Around([first, second])).results[0] is first.inputs[0]
    with pytest.raises(NotApplicable, match="not the result of a reshape"):
        rules()["merge_reshapes"].apply(Around(), third, "new")
    assert rules()["merge_reshapes"].optional


def test_remove_identity() -> None:
    assert check("remove_identity", "identity", [noise(2, 3)]).ops == []
