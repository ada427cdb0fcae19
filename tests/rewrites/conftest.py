# SPDX-License-Identifier: Apache-2.0
"""Makes tests/reference.py importable, and keeps torch to one thread."""

import sys
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)
settings.register_profile(
    "rules", max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
settings.load_profile("rules")
