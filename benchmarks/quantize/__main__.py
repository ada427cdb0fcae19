# SPDX-License-Identifier: Apache-2.0
"""Quantization by porter and by its peers: the same trained models, calibration items and held-out items, in one run.

    make bench-quantize    or    python -m benchmarks.quantize [--models a,b] [--peers a,b] [--widths a,b] [--quick]

Packages with models and pictures, and the peers in environments of their own (.venv-peers), are installed where they
are missing. Two contenders run at a time, one thread each. What is printed goes into docs/quantization.md between its
markers, and with every figure into docs/quantization.json (not with --models, --peers, --widths or --quick, which
print only).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from . import tables
from .cases import CASES, Case
from .contenders import CONTENDERS, ENVIRONMENTS, ROOT, Contender
from .contenders import prepare as prepare_environment
from .measure import PRINTING, Prepared, Result, float_kept, folder_of, measure, prepare
from .packages import fetch
from .speed import kept_speed, speed

PAGE = ROOT / "docs" / "quantization.md"
BEGIN, END = "<!-- begin: printed by make bench-quantize -->", "<!-- end -->"
#: Items of --quick.
QUICK = 8


def _chosen(text: str | None, names: list[str], what: str) -> set[str]:
    chosen = set(names if text is None else text.split(","))
    if not chosen <= set(names):
        raise SystemExit(f"no {what} {', '.join(sorted(chosen - set(names)))}; there are {', '.join(names)}")
    return chosen


def main() -> None:
    peers, widths = (list(dict.fromkeys(of(c) for c in CONTENDERS)) for of in (lambda c: c.peer, lambda c: c.width))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help=f"of {','.join(c.name for c in CASES)}")
    parser.add_argument("--peers", help=f"of {','.join(peers)}")
    parser.add_argument("--widths", help=f"of {','.join(widths)}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} items of each, to see that everything runs")
    parser.add_argument("--jobs", type=int, default=2, help="contenders at a time")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that a contender may take on one model")
    parser.add_argument("--reuse", action="store_true", help="take what an earlier run measured on the same items")
    parser.add_argument("--kept", action="store_true", help="measure nothing: print what earlier runs measured")
    parser.add_argument("--no-speed", action="store_true", help="leave out calibration's speed and memory")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-quantize")
    args = parser.parse_args()
    models = _chosen(args.models, [c.name for c in CASES], "model")
    who = _chosen(args.peers, peers, "peer")
    chosen_widths = _chosen(args.widths, widths, "width")
    start = time.perf_counter()

    contenders = [c for c in CONTENDERS if c.peer in who and c.width in chosen_widths]
    versions = {
        name: prepare_environment(ENVIRONMENTS[name]) for name in dict.fromkeys(c.environment for c in contenders)
    }
    print(tables.installed(versions), flush=True)
    cases = [case for case in CASES if case.name in models]
    results: list[Result] = []
    floats: dict[str, dict[str, float]] = {}
    limit = QUICK if args.quick else None
    if args.kept:
        for case in cases:
            folder = folder_of(case, args.work, limit)
            digest, floats[case.name] = float_kept(folder)
            found = [_read(_kept(folder, digest, c), c, versions[c.environment][0]) for c in contenders]
            results += [result for result in found if result is not None]
    else:
        packages = fetch(args.work)
        with ThreadPoolExecutor(args.jobs) as pool:
            for case in cases:
                prepared = prepare(case, packages, args.work, limit)
                floats[case.name] = prepared.scores
                print(f"\n{case.title}: float {prepared.scores}", flush=True)
                runs = [
                    pool.submit(_one, prepared, c, versions[c.environment], args.timeout, args.reuse)
                    for c in contenders
                ]
                results += [run.result() for run in runs]
    printed = tables.markdown(cases, floats, results, versions)
    if not args.no_speed:
        section = kept_speed(args.work) if args.reuse or args.kept else ""
        if not section and not args.kept:
            section = speed(args.work)
        printed += f"\n\n{section}" if section else ""
    seconds = time.perf_counter() - start
    reused = sum(result.reused for result in results)
    printed += f"\n\n{_machine()}; {len(results)} rows in {seconds / 60:.0f} minutes"
    printed += f", {reused} of them measured by earlier runs on the same items." if reused else "."
    print("\n" + printed)
    if args.models is None and args.peers is None and args.widths is None and not args.quick:
        _write(printed, cases, floats, results, versions)


def _kept(folder: Path, digest: str, contender: Contender) -> Path:
    """Where a result is kept: with the same items, the same file."""
    return folder / f"{contender.key}-{digest}.json"


def _read(kept: Path, contender: Contender, version: str) -> Result | None:
    """What an earlier run kept of this contender with these settings and in this version."""
    if not kept.exists():
        return None
    result = Result(**{**json.loads(kept.read_text()), "reused": True})
    return result if (result.contender, result.version) == (contender.to_json(), version) else None


def _one(prepared: Prepared, contender: Contender, version: tuple[str, str], timeout: float, reuse: bool) -> Result:
    """Measure, keep what was measured, say it in a line."""
    kept = _kept(prepared.folder, prepared.digest, contender)
    result = _read(kept, contender, version[0]) if reuse else None
    if result is None:
        if version[0]:
            result = measure(prepared, contender, version[0], timeout)
        else:
            result = Result(prepared.case.name, contender.to_json(), "", failure=f"not installed: {version[1]}")
        kept.write_text(json.dumps(asdict(result), indent=1))
    figures = (
        result.failure
        or f"{ {k: round(v, 3) for k, v in result.scores.items()} } {result.sqnr:.1f} dB, {result.wall:.0f} s"
    )
    with PRINTING:
        print(f"  {contender.width:6} {contender.peer}, {contender.label}: {figures}", flush=True)
    return result


def _machine() -> str:
    import onnxruntime

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    python, runtime = platform.python_version(), onnxruntime.__version__
    return f"{os.cpu_count()} cores of {model}, Python {python}, onnxruntime {runtime}, {datetime.date.today()}"


def _write(
    printed: str,
    cases: list[Case],
    floats: dict[str, dict[str, float]],
    results: list[Result],
    versions: dict[str, tuple[str, str]],
) -> None:
    """Put the tables between the page's markers, and the figures beside it."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{printed}\n\n{END}{after}", encoding="utf-8")
    figures = {
        "machine": _machine(),
        "versions": {name: version for name, (version, _) in versions.items()},
        "float": floats,
        "metrics": {case.name: case.metric for case in cases},
        "results": [asdict(result) for result in results],
    }
    PAGE.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
