# SPDX-License-Identifier: Apache-2.0
"""Every code in use has a page, every page belongs to a code in use, and errors read well."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from porter.errors import PorterError, codes, explain

ROOT = Path(__file__).resolve().parents[2]


def used_codes() -> set[str]:
    used: set[str] = set()
    for folder in ("porter", "rewrites"):
        for source in (ROOT / folder).rglob("*.py"):
            used.update(re.findall(r"\bPT[1-9]\d\d\b", source.read_text(encoding="utf-8")))
    return used


def test_every_code_used_has_a_page() -> None:
    assert used_codes() - {code for code, _ in codes()} == set()


def test_every_page_is_used() -> None:
    assert {code for code, _ in codes()} - used_codes() == set()


@pytest.mark.parametrize("code", [code for code, _ in codes()])
def test_page_has_the_form(code: str) -> None:
    page = explain(code)
    assert page.startswith(f"# {code} ") and len(dict(codes())[code]) > 5
    heads = [line for line in page.splitlines() if line.startswith("## ")]
    assert heads in (["## What it means", "## Example", "## What to do"], ["## What it means", "## What to do"])
    for body in re.split(r"^## .*$", page, flags=re.MULTILINE)[1:]:
        assert len(body.strip()) > 10


def test_text_has_code_where_and_fix() -> None:
    error = PorterError("PT501", "there is no file a.onnx", where="a.onnx", fix="Check the path.")
    assert str(error) == "PT501: there is no file a.onnx\n  where: a.onnx\n  fix: Check the path."
    assert str(PorterError("PT501", "gone")) == "PT501: gone"


def test_error_survives_a_process_boundary() -> None:
    error = PorterError("PT502", "cut", where="x", fix="y")
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.message, again.where, again.fix) == ("PT502", "cut", "x", "y")


def test_a_malformed_code_is_a_bug() -> None:
    with pytest.raises(ValueError, match="PTnnn"):
        PorterError("P501", "x")


def test_explain_takes_lower_case_and_suggests_the_nearest() -> None:
    assert explain("pt501") == explain("PT501")
    with pytest.raises(PorterError) as caught:
        explain("P501")
    assert caught.value.code == "PT517"
    assert caught.value.fix is not None and "PT501" in caught.value.fix
