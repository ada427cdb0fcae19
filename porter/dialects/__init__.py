# SPDX-License-Identifier: Apache-2.0
"""Captured models behind one interface: torch.export programs (fx) and ONNX files (onnx)."""
