# SPDX-License-Identifier: Apache-2.0
"""The worked example of scaling: the YOLOX that is as accurate as the MLU270 has time for.

Importable as ``examples.yolox_scale`` from the repository root.
"""
