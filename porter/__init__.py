# SPDX-License-Identifier: Apache-2.0
"""porter: port trained models to accelerators with few operators.

>>> import porter
>>> report = porter.check("yolox_s.onnx", "mlu270")
>>> made = porter.rewrite("yolox_s.onnx", "mlu270")
>>> assert made.ok, made.report.findings
>>> made.save("out/")
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from porter.api import Ported, Rewritten, check, debug, emit, port, quantize, resave, rewrite, run, save, verify
from porter.errors import PorterError

if TYPE_CHECKING:
    from porter.compress.prune import prune
    from porter.compress.scale import scale
    from porter.findings import Finding, OpReport, Report
    from porter.graph import Graph
    from porter.loading import load
    from porter.partition.make import Partitioned, partition
    from porter.target import Target

__all__ = [
    "Finding", "Graph", "OpReport", "Partitioned", "Ported", "PorterError", "Report", "Rewritten", "Target",
    "check", "debug", "emit", "load", "partition", "port", "prune", "quantize", "resave", "rewrite", "run",
    "save", "scale", "verify",
]  # fmt: skip

_LATER = {
    "Finding": "porter.findings", "OpReport": "porter.findings", "Report": "porter.findings",
    "Graph": "porter.graph", "Target": "porter.target", "load": "porter.loading",
    "prune": "porter.compress.prune", "scale": "porter.compress.scale",
    "Partitioned": "porter.partition.make", "partition": "porter.partition.make",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # These need numpy; `porter --help` does not.
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'porter' has no attribute {name!r}")


class _Package(ModuleType):
    """`porter.rewrite`, `verify`, `quantize`, `debug` and `emit` are functions here and modules to import from.

    The import system binds a submodule to its package's attribute when it is first imported; that must not replace the
    function of the same name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
