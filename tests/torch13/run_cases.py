# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: B905, PTH118, PTH123
"""Run by the old interpreter: every generated source of a folder, eagerly and traced, against expected values.

The folder holds cases.json ([{name, source, state, inputs, outputs}], with the names of arrays) and arrays.npz. Prints
one JSON object: for each case None, or what went wrong.
"""

import json
import os
import sys
import warnings

import numpy as np
import torch


def difference(got, want):
    if tuple(got.shape) != want.shape:
        return f"shape {tuple(got.shape)}, expected {want.shape}"
    if str(got.dtype) != "torch." + str(want.dtype):
        return f"dtype {got.dtype}, expected {want.dtype}"
    got = got.numpy()
    if want.dtype.kind == "f":
        error = np.abs(got.astype(np.float64) - want).max() if want.size else 0.0
        span = max(float(np.ptp(want)), 1e-6) if want.size else 1.0
        return None if error <= 1e-5 * span else "differs by %.3g of its range" % (error / span)
    return None if np.array_equal(got, want) else "differs"


def check(case, arrays):
    namespace = {"__name__": "model"}
    exec(compile(case["source"], "model.py", "exec"), namespace)
    net = namespace["Model"]().eval()
    net.load_state_dict({key: torch.from_numpy(arrays[name]) for key, name in case["state"].items()}, strict=True)
    inputs = tuple(torch.from_numpy(arrays[name]) for name in case["inputs"])
    for run in (net, torch.jit.trace(net, inputs, check_trace=False)):
        got = run(*inputs)
        got = [got] if isinstance(got, torch.Tensor) else list(got)
        for tensor, name in zip(got, case["outputs"]):
            wrong = difference(tensor, arrays[name])
            if wrong:
                return ("eager: " if run is net else "traced: ") + wrong
    return None


def main(folder):
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    arrays = dict(np.load(os.path.join(folder, "arrays.npz")))
    result = {}
    with open(os.path.join(folder, "cases.json")) as file:
        cases = json.load(file)
    for case in cases:
        try:
            result[case["name"]] = check(case, arrays)
        except Exception as error:
            result[case["name"]] = f"{type(error).__name__}: {error}"
    print(json.dumps({"torch": torch.__version__, "cases": result}))


if __name__ == "__main__":
    main(sys.argv[1])
