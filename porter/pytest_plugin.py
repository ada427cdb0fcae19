# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: ``assert_portable(model, target)``, a function to import and a fixture of the same name.

pytest loads this module in every run of an environment that has porter, so it imports nothing of porter's until a test
asks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from porter.findings import Report
    from porter.target import Target

__all__ = ["assert_portable"]


def assert_portable(
    model: Any,
    target: Target | str | Path,
    inputs: Any = None,
    *,
    allow: Collection[str] = (),
    baseline: str | os.PathLike[str] | None = None,
    **loading: Any,
) -> Report:
    """Fail the test when ops would be left that the target does not run, after the rewrites that are allowed.

    Args:
        model, target, inputs, allow, loading: as for :func:`porter.check`.
        baseline: a file of ``porter check --write-baseline``; what it knows does not fail the test.

    Returns:
        The report, for tests that ask for more (``report.ok``: legal without a rewrite).

    Raises:
        AssertionError: its text is what ``porter check`` prints, of the ops that would be left.
        PorterError: the model, the target, the baseline or an option is wrong.
    """
    __tracebackhide__ = True
    from porter.api import check
    from porter.baseline import judge, read_baseline
    from porter.report.text import failed_to_text
    from porter.target import Target

    chosen = target if isinstance(target, Target) else Target.load(target)
    report = check(model, chosen, inputs, allow=allow, **loading)
    gate = judge(report, portable=True, baseline=read_baseline(baseline) if baseline is not None else None)
    if not gate.ok:
        raise AssertionError(failed_to_text(gate, chosen.title))
    return report


@pytest.fixture(name="assert_portable", scope="session")
def _assert_portable() -> Callable[..., Report]:
    """:func:`assert_portable`, without an import."""
    return assert_portable
