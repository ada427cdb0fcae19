# SPDX-License-Identifier: Apache-2.0
"""Inverse functions, and products."""

from typing import Any

import numpy as np
import pytest
from harness import check, line, noise, refuse
from hypothesis import given
from hypothesis import strategies as st

ENDS = [0.0, 1.0, -1.0, np.nan]
UNIT = line(-1, 1, special=ENDS)
#: Where 1 + x keeps its digits.
INSIDE = line(-0.99, 0.9999, special=[0.0, 1.0, np.nan])
WIDE = line(-1e4, 1e4, special=[0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-8, -1e-8, 3e30])
RULES = [
    ("asinh_to_log", "asinh", line(-1e4, 1e4, special=[0.0, 1e-6, -1e-6, 1e17, np.nan])),
    ("asinh_to_log", "asinh", line(-2, 2, special=[])),
    ("acosh_to_log", "acosh", line(1, 3, special=[1.0, 1.000001, 1e4, 1e17, np.inf, np.nan])),
    ("atanh_to_log", "atanh", INSIDE),
    ("asin_to_sqrt", "asin", UNIT),
    ("acos_to_asin", "acos", UNIT),
    ("atan_to_polynomial", "atan", line(-3, 3)),
    ("atan_to_polynomial", "atan", WIDE),
]


@pytest.mark.parametrize(("rule", "kind", "x"), RULES, ids=[f"{rule}-{i}" for i, (rule, _, _) in enumerate(RULES)])
def test_within_its_bound(rule: str, kind: str, x: Any) -> None:
    check(rule, kind, [x])


@pytest.mark.parametrize(("rule", "kind"), sorted({(rule, kind) for rule, kind, _ in RULES}))
def test_integers_are_refused(rule: str, kind: str) -> None:
    refuse(rule, kind, [noise(4, dtype="int32")], "floating")


def test_outside_its_domain_is_not_a_number() -> None:
    for rule, kind, x in (("asin_to_sqrt", "asin", 1.5), ("acosh_to_log", "acosh", 0.5), ("atanh_to_log", "atanh", 2)):
        check(rule, kind, [np.array([x], np.float32)])


@st.composite
def products(draw: Any) -> tuple[Any, dict[str, Any]]:
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    axes = tuple(sorted(draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))]))
    return noise(*shape, seed=draw(st.integers(0, 99))), {"axes": axes, "keepdim": draw(st.booleans())}


@given(products())
def test_products(case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    check("prod_to_products", "prod", [x], **attrs)


def test_a_long_product() -> None:
    x = np.random.default_rng(0).uniform(0.7, 1.4, (2, 64, 63)).astype(np.float32)
    check("prod_to_products", "prod", [x], axes=(1,), keepdim=False)
    assert len(check("prod_to_products", "prod", [x], axes=(2,), keepdim=True).ops) < 40
    refuse("prod_to_products", "prod", [noise(65)], "65 elements", axes=(0,), keepdim=False)
    refuse("prod_to_products", "prod", [noise(4, dtype="int64")], "floating", axes=(0,), keepdim=False)
