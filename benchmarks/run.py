# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of porter's ONNX path beside onnxsim, OnnxSlim and onnxscript, in one run on one machine.

    python benchmarks/run.py [--rounds 3] [--only chain,big,...]

Every figure is of a whole process, start-up included: wall seconds (median, least and most of the rounds), seconds of
the processor (user and system, median), which say more where others use the machine too, and peak resident memory (at
least this script's own, about 40 MB). The contenders take turns within a round, so that a machine
that slows down slows all of them. The models are made here: a chain of 30,000 SiLU nodes (ONNX Swish, opset 24), chains
of 1,000 to 8,000 of them, whose seconds must grow no faster than their nodes, a 2.8 GB model with external data, and
YOLOX-s at 640 as the torch exporter writes it. The peers do what they are made
for, on the same files: onnxsim and OnnxSlim simplify, onnxscript rewrites Swish to x * sigmoid(x) by a pattern rule,
which is the rewrite that porter makes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PORTER = str(Path(sys.executable).parent / "porter")

#: Every contender may cache its bytecode, as on a user's machine; the first round that does so is not counted.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

ONNXSIM = "import sys, onnx, onnxsim; m, ok = onnxsim.simplify(sys.argv[1], check_n=0); onnx.save(m, sys.argv[2])"
ONNXSLIM = "import sys, onnxslim; onnxslim.slim(sys.argv[1], sys.argv[2])"
ONNXSCRIPT = """
import sys, onnx_ir as ir
from onnxscript.rewriter import pattern, rewrite
rule = pattern.RewriteRule(lambda op, x: op.Swish(x), lambda op, x: op.Mul(x, op.Sigmoid(x)))
m = ir.load(sys.argv[1])
ir.save(rewrite(m, [rule]), sys.argv[2])
"""


@dataclass
class Contender:
    """One command line on one model, and what was measured of it."""

    name: str
    command: list[str]
    codes: tuple[int, ...] = (0,)
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    failure: str = ""


def measure(contender: Contender, folder: Path, timeout: float) -> None:
    """Run once in the model's folder; add wall seconds and peak MB of the process, or say why it failed."""
    with tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            contender.command, stdout=subprocess.DEVNULL, stderr=err, env=ENVIRONMENT, cwd=folder
        )
        deadline = start + timeout
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() > deadline:
                process.kill()
                os.wait4(process.pid, 0)
                contender.failure = f"stopped after {timeout:.0f} s"
                return
            time.sleep(0.002)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in contender.codes:
            err.seek(0)
            lines = err.read().decode(errors="replace").strip().splitlines()
            contender.failure = f"exit {process.returncode}: {lines[-1][:100] if lines else 'no message'}"
            return
    contender.seconds.append(seconds)
    contender.processor.append(usage.ru_utime + usage.ru_stime)
    contender.megabytes.append(usage.ru_maxrss / 1024)


def chain(folder: Path, nodes: int = 30_000) -> Path:
    """A chain of Swish nodes."""
    path = folder / "chain.onnx"
    made = [helper.make_node("Swish", [f"v{i}"], [f"v{i + 1}"], name=f"/act{i}/Swish") for i in range(nodes)]
    shape = [1, 8]
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"v{nodes}", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11), path)
    return path


def big(folder: Path, layers: int = 7, width: int = 10_000) -> Path:
    """A perceptron with 2.8 GB of weights in an external file (real bytes, not a hole in a file)."""
    path = folder / "big.onnx"
    size = 4 * width * width
    block = np.random.default_rng(0).standard_normal(width * 100, np.float32).tobytes()
    nodes, weights = [], []
    with (folder / "big.data").open("wb") as data:
        for i in range(layers):
            for _ in range(size // len(block)):
                data.write(block)
            w = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[width, width])
            w.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "big.data"), ("offset", str(i * size)), ("length", str(size))):
                w.external_data.add(key=key, value=value)
            weights.append(w)
            nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"h{i}"], name=f"/fc{i}/MatMul"))
            nodes.append(helper.make_node("Swish", [f"h{i}"], [f"x{i + 1}"], name=f"/act{i}/Swish"))
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, [1, width])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11), path)
    return path


def yolox(folder: Path) -> Path:
    """YOLOX-s at 640 with the decode of slice assignments, exported by torch in a process of its own."""
    path = folder / "yolox_s.onnx"
    code = (
        "import sys, torch; sys.path.insert(0, 'examples'); from yolox_mlu270.yolox import yolox_s\n"
        "m = yolox_s(decode='legacy').eval()\n"
        "torch.onnx.export(m, (torch.zeros(1, 3, 640, 640),), sys.argv[1], input_names=['images'],\n"
        "                  output_names=['output'], opset_version=18, dynamo=True, external_data=False, "
        "verbose=False)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"exporting YOLOX-s failed: {run.stderr.strip().splitlines()[-1]}")
    return path


def contenders(case: str, folder: Path) -> list[Contender]:
    """The command lines to compare on one case."""

    def out(name: str) -> str:
        (folder / name).mkdir(exist_ok=True)
        return str(folder / name / "out.onnx")

    python = [sys.executable, "-c"]
    if case == "start":
        return [
            Contender("porter --help", [PORTER, "--help"]),
            Contender("python -c 'import onnx'", [*python, "import onnx"]),
            Contender("python -c 'import onnxsim'", [*python, "import onnxsim"]),
        ]
    if case == "growth":
        made = []
        for nodes in (1000, 2000, 4000, 8000):
            place = folder / str(nodes)
            place.mkdir()
            rewrite = [PORTER, "rewrite", "--target", "mlu270", str(chain(place, nodes)), "--overwrite", "--no-verify"]
            made.append(Contender(f"porter, {nodes} nodes", [*rewrite, "-o", str(place / "out.onnx")]))
        return made
    model = str({"yolox": yolox, "chain": chain, "big": big}[case](folder))
    rewrite = [PORTER, "rewrite", "--target", "mlu270", model, "--overwrite"]
    check = Contender("porter check", [PORTER, "check", "--target", "mlu270", model], (0, 1))
    if case == "yolox":
        return [
            check,
            Contender("porter rewrite", [*rewrite, "--no-verify", "-o", out("porter")]),
            Contender("porter rewrite, proved", [*rewrite, "-o", out("proved")]),
            Contender("onnxsim", [*python, ONNXSIM, model, out("onnxsim")]),
            Contender("OnnxSlim", [*python, ONNXSLIM, model, out("onnxslim")]),
        ]
    rewriter = Contender("porter check + rewrite", [*rewrite, "--no-verify", "-o", out("porter")])
    return [
        rewriter,
        Contender("onnxscript rewrite", [*python, ONNXSCRIPT, model, out("onnxscript")]),
        Contender("onnxsim", [*python, ONNXSIM, model, out("onnxsim")]),
        Contender("OnnxSlim", [*python, ONNXSLIM, model, out("onnxslim")]),
    ]


CASES: dict[str, str] = {
    "start": "start-up",
    "yolox": "YOLOX-s, 640 x 640",
    "chain": "30,000 SiLU nodes",
    "growth": "1,000 to 8,000 SiLU nodes",
    "big": "2.8 GB, external data",
}


def main(argv: list[str] | None = None, say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command")
    parser.add_argument("--only", default=",".join(CASES), help=f"cases, of {','.join(CASES)}")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds after which a run is stopped")
    args = parser.parse_args(argv)
    for case in args.only.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            entries = contenders(case, Path(temporary))
            for round_ in range(args.rounds + 1):
                for entry in entries:
                    if not entry.failure:
                        measure(entry, Path(temporary), args.timeout)
                        if round_ == 0:
                            entry.seconds.clear()
                            entry.processor.clear()
                            entry.megabytes.clear()
        say(f"\n{CASES[case]}")
        say(f"  {'':26}{'median s':>9}{'least':>8}{'most':>8}{'ratio':>8}{'cpu s':>8}{'ratio':>8}{'peak MB':>9}")
        base = statistics.median(entries[0].seconds) if entries[0].seconds else float("nan")
        busy = statistics.median(entries[0].processor) if entries[0].processor else float("nan")
        for e in entries:
            if e.failure:
                say(f"  {e.name:26}{e.failure}")
                continue
            middle, cpu = statistics.median(e.seconds), statistics.median(e.processor)
            say(f"  {e.name:26}{middle:9.2f}{min(e.seconds):8.2f}{max(e.seconds):8.2f}{middle / base:8.2f}"
                f"{cpu:8.2f}{cpu / busy:8.2f}{max(e.megabytes):9.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
