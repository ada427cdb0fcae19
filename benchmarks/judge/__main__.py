# SPDX-License-Identifier: Apache-2.0
"""porter's verdicts before the vendors' compilers: confusion tables, disagreements, and what rewriting mends.

    make judge                 or        python -m benchmarks.judge [--targets ethos-u55,ncnn] [--rewrite models]

Toolchains that are not installed are installed (.venv-toolchains); one that cannot be is skipped, and the reason
printed. Answers are kept in build/judge by the versions of the toolchain: an interrupted run goes on where it was. The
tables go into docs/judges.md, and every row into docs/judges.json (not with --kinds, --no-models, --rewrite none); of
targets that were not asked about now, those of their last run here.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from porter.errors import PorterError
from porter.report.text import console
from porter.target import Target
from porter.toolchains import environment
from porter.toolchains.catalogue import SPECS

from . import tables
from .measure import Row, judge

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "judge"
PAGE = ROOT / "docs" / "judges.md"
BEGIN, END = "<!-- begin: printed by make judge -->", "<!-- end -->"
TARGETS = ("ethos-u55", "ethos-u85", "ncnn", "k210", "esp32p4", "bm1684x")
#: Where the trained models of make bench-quantize, of up to 4 million weights, are compiled in seconds.
TRAINED = frozenset({"ncnn"})


def corpus(work: Path) -> dict[str, Path]:
    """The whole models, exported where they are not yet."""
    from .models import MODELS, export

    folder = work / "models"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in MODELS:
        path = folder / f"{name}.onnx"
        if not path.exists():
            export(name, path)
        found[name] = path
    return found


def trained() -> dict[str, Path]:
    """The models of make bench-quantize, if it has been run here."""
    return {f"{path.stem} (trained)": path for path in sorted((ROOT / "build/bench-quantize/models").glob("*.onnx"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", help=f"of {','.join(TARGETS)}")
    parser.add_argument("--toolchain", choices=sorted(environment.NAMES), help="the targets of one toolchain")
    parser.add_argument("--kinds", help="kinds of ops (default: all)")
    parser.add_argument("--rewrite", choices=("all", "models", "none"), default="all", help="which models to rewrite")
    parser.add_argument("--no-models", action="store_true", help="ops only")
    parser.add_argument("--no-install", action="store_true", help="skip toolchains that are not installed")
    args = parser.parse_args()
    names = args.targets.split(",") if args.targets else list(TARGETS)
    if args.toolchain:
        names = [name for name in names if environment.for_target(name) == args.toolchain]
    kinds = args.kinds.split(",") if args.kinds else list(SPECS)
    if unknown := [name for name in names if name not in TARGETS] + [kind for kind in kinds if kind not in SPECS]:
        raise SystemExit(f"there is no {', '.join(unknown)}")
    models = {} if args.no_models else corpus(WORK)
    err = console(stderr=True)
    judged: dict[str, tuple[dict[str, str], list[Row]]] = {}
    for name in names:
        toolchain = environment.for_target(name)
        assert toolchain is not None
        try:
            if not environment.ready(toolchain):
                if args.no_install:
                    raise environment.missing(toolchain)
                environment.install(toolchain, err.print)
        except PorterError as error:
            print(f"{name}: skipped. {error.message}")
            continue
        with err.status("starting") as status:
            say = status.update if err.is_terminal else (lambda _text: None)
            more = trained() if models and name in TRAINED else {}
            rows = judge(
                Target.load(name),
                WORK / f"{name}.jsonl",
                {**models, **more},
                say,
                rewrite=args.rewrite,
                kinds=kinds,
            )
        judged[name] = environment.versions(toolchain), rows
        print(tables.one(name, *judged[name]), flush=True)
        if not (args.kinds or args.no_models or args.rewrite == "none"):
            _keep(name, *judged[name])
    print(tables.page(judged))
    if not (args.kinds or args.no_models or args.rewrite == "none"):
        _write(_kept())


def _keep(name: str, versions: dict[str, str], rows: list[Row]) -> None:
    data = {"versions": versions, "rows": [asdict(row) for row in rows]}
    (WORK / f"{name}.rows.json").write_text(json.dumps(data), encoding="utf-8")


def _kept() -> dict[str, tuple[dict[str, str], list[Row]]]:
    """The last whole run of each target here."""
    found = {}
    for name in TARGETS:
        path = WORK / f"{name}.rows.json"
        if path.exists():
            data = json.loads(path.read_text(encoding="utf-8"))
            found[name] = data["versions"], [Row(**row) for row in data["rows"]]
    return found


def _write(judged: dict[str, tuple[dict[str, str], list[Row]]]) -> None:
    """Put the tables between the page's markers, and every row beside it."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    text = tables.page(judged)
    PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    data = {
        name: {"versions": versions, "rows": [_plain(row) for row in rows]} for name, (versions, rows) in judged.items()
    }
    PAGE.with_suffix(".json").write_text(json.dumps(data, indent=0) + "\n", encoding="utf-8")


def _plain(row: Row) -> dict[str, object]:
    """A row without what is empty."""
    return {key: value for key, value in asdict(row).items() if value not in ("", [], None, 0, False)}


if __name__ == "__main__":
    main()
