# SPDX-License-Identifier: Apache-2.0
"""Every kind of op, as porter writes it, computed and traced by a real torch 1.3.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch13_tools import HERE, Runner

pytestmark = pytest.mark.torch13


@pytest.fixture(scope="module")
def results(old: Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """One process for all cases: importing the old torch takes longer than running them."""
    from emit_cases import CASES

    from porter.emit.codegen import generate

    folder: Path = tmp_path_factory.mktemp("cases")
    arrays: dict[str, Any] = {}
    cases = []

    def keep(array: Any) -> str:
        arrays[f"a{len(arrays)}"] = array
        return f"a{len(arrays) - 1}"

    for case in CASES:
        made = generate(case.graph)
        cases.append(
            {
                "name": case.name,
                "source": made.source,
                "state": {key: keep(data) for key, data in made.state.items()},
                "inputs": [keep(data) for data in case.inputs],
                "outputs": [keep(data) for data in case.expected],
            }
        )
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "cases.json").write_text(json.dumps(cases))
    done = old(HERE / "run_cases.py", folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["torch"] == "1.3.1"
    found: dict[str, str | None] = answer["cases"]
    assert len(found) == len(cases)
    return found


def test_every_kind_computes_the_same_in_torch_1_3(results: dict[str, str | None]) -> None:
    assert {name: wrong for name, wrong in results.items() if wrong} == {}
