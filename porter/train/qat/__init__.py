# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training: any module that porter can capture, trained with the integers of its target.

::

    network = convert(model, images, target, mode="fuse_bn", scales="learned", outputs=dict(int16_output=True))
    network.observe()                     # calibration: floats flow, observers look
    for batch in loader:
        network(batch)
    network.freeze_ranges()               # scales from what was seen (in all processes); fake quantization from here on
    ...                                   # train it: an ordinary nn.Module
    integers = to_integers(network)       # the integer network: porter's own simulator
    integers.emit(folder)                 # ONNX, QDQ, traced
"""

from porter.train.qat.convert import convert
from porter.train.qat.integers import IntNetwork, to_integers
from porter.train.qat.network import QatNetwork
from porter.train.qat.outputs import OutputRule

__all__ = ["IntNetwork", "OutputRule", "QatNetwork", "convert", "to_integers"]
