# SPDX-License-Identifier: Apache-2.0
"""Every node test of the onnx package through check and rewrite for the MLU270: no crash, and nothing changes its
meaning."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest

import porter
from porter.data import random_inputs
from porter.errors import PorterError
from porter.target import Target
from porter.verify import verify


@pytest.mark.filterwarnings("ignore")
def test_every_node_test_of_onnx_is_checked_and_rewritten():
    from onnx.backend.test.case.node import collect_testcases

    target = Target.load("mlu270")
    seen: Counter[str] = Counter()
    different = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None) if case.model is not None]
    for case in cases:
        try:
            original = porter.load(case.model)
            made = porter.rewrite(original, target, verify=False)
        except PorterError as refused:  # a dynamic input, say: said in one line
            seen[refused.code] += 1
            continue
        seen["legal" if made.report.ok else "left"] += 1
        if not made.ledger.entries:
            continue
        try:
            evidence = verify(original, made.graph, random_inputs(original.inputs, 2, 0))
        except PorterError as unable:  # onnxruntime has no kernel for it, or its result has another shape each time
            seen[unable.code] += 1
            continue
        seen["proved"] += 1
        if not evidence.ok:
            different.append((case.name, [entry.rules for entry in made.ledger.entries], evidence.worst.to_json()))
    assert different == []
    assert seen["proved"] > 300 and seen["legal"] > 300, seen
    assert set(seen) <= {"legal", "left", "proved", "PT507", "PT353", "PT331"}, seen
