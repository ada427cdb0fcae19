# SPDX-License-Identifier: Apache-2.0
"""gelu in its exact and its tanh form."""

import numpy as np
from harness import check, line, refuse

X = line(-12, 12, special=[0.0, -0.0, np.nan, 1e10])


def test_gelu_to_erf() -> None:
    check("gelu_to_erf", "gelu", [X], approximate="none")
    refuse("gelu_to_erf", "gelu", [X], "tanh form", approximate="tanh")


def test_gelu_tanh_to_tanh() -> None:
    check("gelu_tanh_to_tanh", "gelu", [X], approximate="tanh")
    refuse("gelu_tanh_to_tanh", "gelu", [X], "exact form", approximate="none")


def test_gelu_none_to_tanh() -> None:
    check("gelu_none_to_tanh", "gelu", [X[:-1]], approximate="none")
    refuse("gelu_none_to_tanh", "gelu", [X], "tanh form", approximate="tanh")


def test_gelu_to_sigmoid() -> None:
    check("gelu_to_sigmoid", "gelu", [X[:-1]], approximate="none")
    check("gelu_to_sigmoid", "gelu", [X[:-1]], approximate="tanh")
