# SPDX-License-Identifier: Apache-2.0
"""``python -m porter.cli``."""

from porter.cli import run

run()
