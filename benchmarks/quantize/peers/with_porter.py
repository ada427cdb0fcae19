# SPDX-License-Identifier: Apache-2.0
"""porter itself. Settings: ``target`` (a name, or a file beside this one), and whatever else
:func:`porter.quantize.engine.quantize` takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from job import Job, main

import porter
from porter.quantize.writers import write_qdq


def quantize(job: Job) -> None:
    settings = dict(job.settings)
    target = settings.pop("target", "onnxruntime")
    if target.endswith(".toml"):
        target = str(Path(__file__).with_name(target))
    items = [[np.ascontiguousarray(item)] for item in job.items()]
    # force: these models are measured on the numerics of devices that do not run all of their ops.
    made = porter.quantize(job.model, target, items, dtype=job.width, force=True, **settings)
    write_qdq(made, Path(job.out))


if __name__ == "__main__":
    main(quantize)
