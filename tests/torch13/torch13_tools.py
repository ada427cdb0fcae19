# SPDX-License-Identifier: Apache-2.0
"""What the tests in the old environment share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

#: ``old(arg, ..., double=False, cwd=None)``: see the fixture of that name.
Runner = Callable[..., "subprocess.CompletedProcess[str]"]
