# SPDX-License-Identifier: Apache-2.0
"""What all tests share."""

import sys
from pathlib import Path

# Helpers of the tests (models, reference) are imported by their plain names.
sys.path.insert(0, str(Path(__file__).parent / "porter"))
sys.path.insert(0, str(Path(__file__).parent.parent))
