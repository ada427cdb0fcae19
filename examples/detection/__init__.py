# SPDX-License-Identifier: Apache-2.0
"""What the detectors of the examples share: layers, data, losses, metric and host post-processing."""
