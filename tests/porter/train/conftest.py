# SPDX-License-Identifier: Apache-2.0
"""What the tests of training share: one small training that has gone through all stages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import tiny

from porter.train.config import STAGES
from porter.train.stages import train


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in one order: what is compared bit for bit was computed by as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(configuration file, results of its stages by name); the folder is not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny.write(folder)
    return config, {stage: train(config, stage) for stage in STAGES}
