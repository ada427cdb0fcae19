# SPDX-License-Identifier: Apache-2.0
"""The worked example of pruning: YOLOv3 in plain PyTorch, from its Darknet files to a smaller detector on a device.

Importable as ``examples.yolov3_prune`` from the repository root.
"""
