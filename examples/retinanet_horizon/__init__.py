# SPDX-License-Identifier: Apache-2.0
"""RetinaNet on VarGNetV2 with an FPN, through float training, calibration, QAT and integers for Horizon's X5."""
