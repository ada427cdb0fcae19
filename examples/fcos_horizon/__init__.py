# SPDX-License-Identifier: Apache-2.0
"""FCOS on EfficientNet-B0 with a BiFPN, through float training, calibration, QAT and integers for Horizon's X5."""
