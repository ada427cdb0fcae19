# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/judges.md from rows made by hand."""

from __future__ import annotations

from benchmarks.judge.measure import Row
from benchmarks.judge.tables import false_natives, page

ROWS = [
    Row("relu [plain]", "op", "accelerator", "accelerator"),
    Row("exp [plain]", "op", "cpu", "cpu", after="not legal", after_said="left: exp"),
    Row("exp [rank == 2]", "op", "accelerator", "cpu", after="not legal", after_said="left: exp"),
    Row("erf [plain]", "op", "refused", "refused", after="accelerator", approximate=True),
    Row("pad [plain]", "held out", "refused", "wrong", after="accelerator"),
    Row("slice [plain]", "op", "refused", "refused", after="refused", after_said="no | way"),
    Row("net", "model", "refused", "refused", after="not legal", after_said="left: exp", segments=2, segments_run=1,
        share=0.75, segment_said="no"),
    Row("other", "model", "refused", "accelerator", documented=True),
]  # fmt: skip


def test_page() -> None:
    text = page({"chip": ({"compiler": "1.0"}, ROWS)})
    # six of seven agree (the eighth the manual alone refuses); one native goes to the CPU
    assert "| chip | compiler 1.0 | 85.7% of 7 | 80.0% of 5 | 100.0% of 1 | 100.0% of 1 | 1 | 0 | 1 |" in text
    # five models of one op are not on the accelerator: one is after a rewrite, one more with --allow approximate
    assert "| chip | 5 | 1 + 1 | 1 | 0 | 1 | 0 |" in text
    assert "| no rule makes it legal | 2 | exp 2 |" in text and "| refused: no / way | 1 | slice 1 |" in text
    assert "| net | refused | refused | - | - | 0 | not legal (left: exp) | - | 1 of 2 (no) | 75.0% |" in text
    assert false_natives(ROWS) == [ROWS[2]]
