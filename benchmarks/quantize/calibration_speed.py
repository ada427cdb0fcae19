# SPDX-License-Identifier: Apache-2.0
"""How long calibration takes next to plain inference of the same images with onnxruntime, and how much memory.

    python benchmarks/quantize/calibration_speed.py det.onnx:1x3x640x640 yolox_nano.onnx:1x3x128x128
    python benchmarks/quantize/calibration_speed.py --memory det.onnx:1x3x640x640

Plain inference is an InferenceSession with its default options on arrays in memory, which computes one image at a time
with all cores, or with as many threads as PORTER_THREADS or OMP_NUM_THREADS say. Calibration computes a few images at a
time, with one core each. ``wall`` is elapsed time, ``cpu`` processor time of the whole process. Both are ratios of the
fastest of several rounds, in turns with the plain runs: with two threads for an operator, plain inference takes twice
as long in some rounds, and medians would flatter calibration. The runtime's sessions of both are made before. Channels
are observed where the target has scales for them. Ranges are found once, after the last sample, and are timed apart.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from porter.data import Data, open_data
from porter.loading import load
from porter.quantize.calibrate import calibrate
from porter.quantize.observers import OBSERVERS
from porter.quantize.plan import Plan, plan
from porter.quantize.scheme import Scheme
from porter.target import Target
from porter.threads import threads

_ROUNDS = 7


class Images:
    """``count`` different images of fixed seeds, made one at a time."""

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        self.shape, self.count = shape, count
        self._made = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i in range(min(count, 8))]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        for index in range(self.count):
            yield self._made[index % 8]


def _opened(spec: str, target: str, count: int) -> tuple[Any, Plan, Scheme, Data, str]:
    path, _, dims = spec.rpartition(":")
    shape = tuple(map(int, dims.split("x")))
    name = onnxruntime.InferenceSession(path).get_inputs()[0].name
    graph = load(path, [f"{name}:{dims}"])
    scheme = Scheme.of(Target.load(target))
    planned = plan(graph, scheme, width="int8", findings=[])
    return graph, planned, scheme, open_data(Images(shape, count), graph.inputs), path


def _times(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(spec: str, target: str, count: int) -> None:
    """Print one row for each observer."""
    graph, planned, scheme, data, path = _opened(spec, target, count)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name

    def plain() -> None:
        for item in data:
            session.run(None, {name: item[0]})

    plain()
    print(f"{spec}, {target}: {len(planned.observed)} ranges, {count} images, {threads() or 'all'} threads")
    for observer in OBSERVERS:
        work = partial(calibrate, graph, planned.observed, data, observer, channels=planned.channels)
        calibrated = work()
        base, mine = [], []
        for _ in range(_ROUNDS):
            base.append(_times(plain))
            mine.append(_times(work))
        begin = time.perf_counter()
        for group in planned.groups:
            calibrated.encoding(group.name, group.dtype, scheme)
        ranges = time.perf_counter() - begin
        wall, cpu = (min(m[i] for m in mine) / min(b[i] for b in base) for i in (0, 1))
        each = min(b[0] for b in base) / count * 1e3
        print(
            f"  {observer:14} wall {wall:.2f}x  cpu {cpu:.2f}x  of {each:.1f} ms an image; ranges {ranges * 1e3:.0f} ms"
        )


def memory(spec: str, target: str) -> None:
    """Print the peak resident memory of a process that calibrates on 10, 100 and 1,000 images."""
    for observer in ("min_max", "mse"):
        for count in (10, 100, 1000):
            command = [sys.executable, __file__, "--peak", observer, "--images", str(count), "--target", target, spec]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"  {observer:14} {count:5} images: {done.stdout.strip()} MB peak")


def _peak(spec: str, target: str, observer: str, count: int) -> None:
    graph, planned, _, data, _ = _opened(spec, target, count)
    calibrate(graph, planned.observed, data, observer, channels=planned.channels)
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="FILE.onnx:1x3xHxW")
    parser.add_argument("--target", default="mlu270")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--memory", action="store_true", help="peak memory of 10, 100 and 1,000 images instead")
    parser.add_argument("--peak", metavar="OBSERVER", help="print the peak of this process alone")
    given = parser.parse_args()
    for spec in given.models:
        if given.peak:
            _peak(spec, given.target, given.peak, given.images)
        elif given.memory:
            memory(spec, given.target)
        else:
            speed(spec, given.target, given.images)


if __name__ == "__main__":
    main()
