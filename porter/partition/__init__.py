# SPDX-License-Identifier: Apache-2.0
"""A model that the device runs only in part: segments for the accelerator and the host, and the glue between them.

>>> made = porter.partition("detector.onnx", "mlu270")
>>> made.save("out/")
>>> from porter.partition import Pipeline
>>> Pipeline.load("out/", accelerator=run_on_the_device).run({"images": array})
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from porter.partition.make import Partitioned, partition
    from porter.partition.port import PortedParts, port_parts
    from porter.partition.run_pipeline import Pipeline, PipelineError

__all__ = ["Partitioned", "Pipeline", "PipelineError", "PortedParts", "partition", "port_parts"]

_LATER = {
    "Pipeline": "run_pipeline", "PipelineError": "run_pipeline", "Partitioned": "make", "partition": "make",
    "PortedParts": "port", "port_parts": "port",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # porter.quantize shares modules of this package; it does not need these.
    from importlib import import_module

    if name in _LATER:
        return getattr(import_module(f"porter.partition.{_LATER[name]}"), name)
    raise AttributeError(f"module 'porter.partition' has no attribute {name!r}")
