# SPDX-License-Identifier: Apache-2.0
"""Training in stages: float, calibration, quantization-aware training, integers; for any torch model and any target.

One Python file configures a model (:mod:`porter.train.config`). torch is imported only by the functions that need it.
"""
