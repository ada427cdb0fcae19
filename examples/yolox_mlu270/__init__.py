# SPDX-License-Identifier: Apache-2.0
"""The worked example: YOLOX, from its ordinary PyTorch form to the MLU270.

Importable as ``examples.yolox_mlu270`` from the repository root, or as ``yolox_mlu270`` with ``examples/`` on the path.
"""
