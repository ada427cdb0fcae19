# SPDX-License-Identifier: Apache-2.0
"""Random models through check and rewrite: none may crash, none may become another function.

    make random-models         or        python -m benchmarks.random_models [--models 1000] [--seed 0]

Each model is judged with a target of targets/ and with a restricted one. One that fails is made small, written into
build/random-models, and the command printed that runs it again. Exit code 1 if any fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from porter.report.text import console

from . import files
from .case import judge
from .generate import generate
from .minimize import minimize, signature
from .runner import Case, isolated, run
from .tables import Tally

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "random-models"
#: Failures that are made small; more of the same kind are listed only.
SMALL = 12


@contextmanager
def counted(total: int) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere; gives a function to call for each model that is done."""
    err = console(stderr=True)
    if not err.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress("models", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err) as bar:
        task = bar.add_task("models", total=total)
        yield lambda: bar.advance(task)


def again(path: Path) -> int:
    """Run a written case, in this process."""
    program, target, how, feed = files.read(path)
    outcome = judge(program, target, how, feed)
    print(f"{outcome.status}: {outcome.detail or outcome.verdict}")
    return int(outcome.failed)


def report(case: Case, path: Path) -> str:
    """Make a failing case small and write it; what to print."""
    program = generate(case.seed, case.number, case.dialect)
    ask, close = isolated()
    try:
        small, target, how = minimize(program, case.target, case.how, case.feed, ask)
        outcome = ask(small, target, how, case.feed)
    finally:
        close()
    model = files.write(path, small, target, how, case.feed, outcome.detail)
    steps = ", ".join(step.op for step in small.steps)
    return (
        f"  {len(program.steps)} steps made {len(small.steps)} ({steps[:200]}) for {target}, {how}\n"
        f"  {outcome.detail}\n  {_shown(model)}\n"
        f"  again: python -m benchmarks.random_models --case {_shown(path)}"
    )


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first model")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--out", type=Path, default=WORK, help="folder of failing cases (build/random-models)")
    parser.add_argument("--keep-size", action="store_true", help="do not make failing cases small")
    parser.add_argument("--case", type=Path, help="run a written case again")
    args = parser.parse_args()
    if args.case:
        return again(args.case)
    numbers = range(args.first, args.first + args.models)
    tally, failed, stopped = Tally(), [], ""
    start = time.perf_counter()
    try:
        with counted(len(numbers)) as done:
            for case, outcome in run(args.seed, numbers, args.jobs, done):
                tally.add(case, outcome)
                if outcome.failed:
                    failed.append((case, outcome))
                    named = f"model {case.number} of seed {case.seed} ({case.dialect}) for {case.target[:60]}"
                    print(f"{named}: {outcome.status}: {outcome.detail}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        stopped = f", interrupted after {len(tally.models)} of them"
    seconds = time.perf_counter() - start
    print(f"seed {args.seed}, models {numbers.start} to {numbers.stop - 1}{stopped}, {seconds:.0f} s\n")
    print(tally.markdown())
    shown: set[tuple[str, str]] = set()
    for case, outcome in sorted(failed, key=lambda pair: pair[0].number):
        print(f"\nmodel {case.number} of seed {case.seed} ({case.dialect}) for {case.target[:60]}: {outcome.status}")
        print(f"  {outcome.detail}")
        if signature(outcome) not in shown and len(shown) < SMALL and not args.keep_size:
            kind = "restricted" if case.target.startswith("without:") else case.target
            print(report(case, args.out / f"seed{case.seed}-model{case.number}-{kind}.json"))
        shown.add(signature(outcome))
    return int(bool(failed or stopped))


if __name__ == "__main__":
    sys.exit(main())
