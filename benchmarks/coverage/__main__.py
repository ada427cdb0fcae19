# SPDX-License-Identifier: Apache-2.0
"""Whole models, and the node tests of ONNX, through check, rewrite and partition for the targets.

    make coverage          or   python -m benchmarks.coverage [--models yolov8_style,...] [--targets mlu270,...]

The models are exported once, in an environment of their own (.venv-coverage), to build/coverage/models. Each is
measured in a process with a limit of time and of memory, for every target. Results are kept in build/coverage by the
contents of the model, the target and porter, so that an interrupted run goes on where it was; --kept takes those of
another porter too, --fresh none. The tables are printed, and go into docs/coverage.md, with every row in
docs/coverage.json, after a run over everything.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import onnx

from porter.report.text import console
from porter.target import Target

from . import conformance, tables
from .catalogue import MODELS, Entry
from .measure import SECONDS, Row

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "coverage"
EXPORTER = ROOT / ".venv-coverage" / "bin" / "python"
PAGE = ROOT / "docs" / "coverage.md"
BEGIN, END = "<!-- begin: printed by make coverage -->", "<!-- end -->"
#: Seconds that an export, and one model on one target, may take (of which it may compute for SECONDS).
EXPORT_LIMIT, LIMIT = 1200, 1200

Say = Callable[[str], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names, separated by commas; of the catalogue (default: all)")
    parser.add_argument("--targets", help="names, separated by commas (default: all)")
    parser.add_argument("--kept", action="store_true", help="take results of another version of porter too")
    parser.add_argument("--fresh", action="store_true", help="take no result of an earlier run")
    parser.add_argument("--no-conformance", action="store_true", help="without the node tests of ONNX")
    parser.add_argument("--report", action="store_true", help="measure nothing: the tables of what is kept")
    args = parser.parse_args()
    names = args.models.split(",") if args.models is not None else [entry.name for entry in MODELS]
    targets = args.targets.split(",") if args.targets else sorted(Target.names())
    targets_known = Target.names()
    entries = [entry for entry in MODELS if entry.name in names]
    if unknown := [n for n in names if n and n not in {e.name for e in MODELS}] + [
        t for t in targets if t not in targets_known
    ]:
        raise SystemExit(f"there is no {', '.join(unknown)}")
    err = console(stderr=True)
    with err.status("starting") as status:
        say = status.update if err.is_terminal else (lambda _text: None)
        files, missing = exported(entries, say)
        kept = Kept(WORK / "rows.jsonl", args.kept or args.report, args.fresh)
        if args.report:
            rows = [row for path in files.values() for t in targets if (row := kept.get(path, t)) is not None]
        else:
            rows = [row for path in files.values() for row in measured(path, targets, kept, say)]
        sizes = {name: len(onnx.load(path, load_external_data=False).graph.node) for name, path in files.items()}
        nodes = {} if args.no_conformance else {t: node_tests(t, kept, say) for t in conformance.TARGETS}
    parts = [tables.page(rows, sizes, missing)] if rows or missing else []
    parts += [conformance.page(nodes)] if nodes else []
    print("\n\n".join(parts))
    if not (args.models or args.targets or args.no_conformance):
        write("\n\n".join(parts), rows, nodes)


def exported(entries: Sequence[Entry], say: Say) -> tuple[dict[str, Path], dict[str, str]]:
    """The files of models, exported where they are not yet, and why some are not there."""
    folder = WORK / "models"
    folder.mkdir(parents=True, exist_ok=True)
    files, missing = {}, {}
    for entry in entries:
        path = folder / f"{entry.name}.onnx"
        if not path.exists():
            say(f"exporting {entry.name}")
            temporary = path.with_suffix(".partial")
            command = [EXPORTER, "-m", "benchmarks.coverage.export", entry.name, temporary]
            try:
                done = subprocess.run(
                    command,
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=EXPORT_LIMIT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                missing[entry.name] = f"no end after {EXPORT_LIMIT} s"
                continue
            if done.returncode:
                missing[entry.name] = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
                continue
            temporary.replace(path)
        files[entry.name] = path
    return files, missing


class Kept:
    """Results of earlier runs: lines of JSON, each a key and a row; a later line counts."""

    def __init__(self, path: Path, any_version: bool, fresh: bool) -> None:
        self.path, self.any_version, self.fresh = path, any_version, fresh
        self.rows: dict[tuple[str, str], Row] = {}
        self.last: dict[tuple[str, str], Row] = {}
        if path.exists() and not fresh:
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                row = Row(**entry["row"])
                self.rows[entry["model"], entry["porter"]] = row
                self.last[entry["model"], row.target] = row

    def get(self, path: Path, target: str) -> Row | None:
        model = _digest(path)
        if self.any_version:
            return self.last.get((model, target))
        return self.rows.get((model, _version(target)))

    def add(self, path: Path, row: Row) -> None:
        entry = {"model": _digest(path), "porter": _version(row.target), "row": asdict(row)}
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@functools.cache
def _version(target: str) -> str:
    """Of everything that a result depends on beside the model: porter's code, the rules, the target's description."""
    files = sorted(
        [
            *(ROOT / "porter").rglob("*.py"),
            *(ROOT / "rewrites").glob("*.py"),
            *(Path(__file__).parent / name for name in ("measure.py", "conformance.py")),
        ]
    )
    said = hashlib.sha256(f"{target} {Target.load(target)!r}".encode())
    for path in files:
        said.update(path.read_bytes())
    return said.hexdigest()[:16]


def node_tests(target: str, kept: Kept, say: Say) -> conformance.Result:
    """The node tests of ONNX for a target, from an earlier run or run now."""
    path = kept.path.parent / f"node_tests_{target}.json"
    if path.exists() and not kept.fresh:
        data = json.loads(path.read_text(encoding="utf-8"))
        if kept.any_version or data["porter"] == _version(target):
            return conformance.Result([conformance.Case(**case) for case in data["cases"]])
    result = conformance.run(target, say=say)
    data = {"porter": _version(target), "cases": [asdict(case) for case in result.cases]}
    path.write_text(json.dumps(data), encoding="utf-8")
    return result


def measured(path: Path, targets: Sequence[str], kept: Kept, say: Say) -> Iterator[Row]:
    """The row of each target, from earlier runs or measured now."""
    found = {target: row for target in targets if (row := kept.get(path, target)) is not None}
    todo = [target for target in targets if target not in found]
    while todo:
        for row in in_process(path, todo, say):
            kept.add(path, row)
            found[row.target] = row
        todo = [target for target in todo if target not in found]
    for target in targets:
        found[target].model = path.stem
        yield found[target]


def in_process(path: Path, targets: Sequence[str], say: Say) -> Iterator[Row]:
    """Measure in another process until it has done all targets, died, or is taken down for its time; a row for each
    target that it began, one at least."""
    command = [sys.executable, "-m", "benchmarks.coverage.measure", str(path), *targets]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        current: str | None = targets[0]
        why = ""
        try:
            while True:
                say(f"{path.stem} on {current}")
                line = lines.get(timeout=LIMIT)
                if line is None:
                    process.wait(LIMIT)
                    break
                data = json.loads(line)
                current = data.get("begins")
                if current is None:
                    yield Row(**data)
        except (queue.Empty, subprocess.TimeoutExpired):
            why = f"no end after {LIMIT} s"
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if current is not None:
        if process.returncode == -signal.SIGXCPU:
            why = f"no end after {SECONDS} s of processor time"
        last = said[-1][:200] if said else "no message"
        why = why or f"crash: the process ended with {process.returncode}: {last}"
        yield Row(path.stem, current, cause=why)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def versions() -> dict[str, str]:
    """Of the environment that exported the models, and of this one."""
    pins = (Path(__file__).parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in pins if "==" in line)
    return {**found, **{name: metadata.version(name) for name in ("onnx", "onnxruntime", "numpy")}}


def write(text: str, rows: Sequence[Row], nodes: Mapping[str, conformance.Result]) -> None:
    """Put the tables between the page's markers, and every row beside it."""
    said = ", ".join(f"{name} {version}" for name, version in sorted(versions().items()))
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{said}.\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    data = {
        "versions": versions(),
        "models": [
            {key: value for key, value in asdict(row).items() if value not in ("", {}, None, 0, False)} for row in rows
        ],
        "node_tests": {target: result.to_json() for target, result in nodes.items()},
    }
    PAGE.with_suffix(".json").write_text(json.dumps(data, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
