# SPDX-License-Identifier: Apache-2.0
"""A stand-in of Cambricon's torch_mlu for tests: what port.py touches of it, by what is known of the real one.

Sources: three state dicts published with MLU270 ports (their keys, dtypes and scales), Cambricon Catch
(torch_mlu/core/quantized, the Python quantizer), and the vendor's offline-model generator. "The device" is the CPU,
where convolution and linear layers compute with integers as the MLU does.

Like the real one, importing it hooks the tracer: the first run of a traced module, while save_as_cambricon has a name,
writes <name>.cambricon and <name>.cambricon_twins.
"""

import torch

from torch_mlu.core import mlu_model

_trace = torch.jit.trace


class _Fused:
    """A traced module whose first run writes the offline model."""

    def __init__(self, module):
        self.module = module
        self.name = mlu_model.STATE["name"]

    def __call__(self, *inputs):
        outputs = self.module(*inputs)
        if self.name:
            tensors = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
            mlu_model.write_offline(self.name, inputs, tensors)
            self.name = ""
        return outputs


def _tracing(module, inputs, check_trace=True, **others):
    if torch.is_grad_enabled():
        raise RuntimeError("fused mode needs torch.set_grad_enabled(False)")
    if check_trace:
        raise RuntimeError("trace with check_trace=False")
    if mlu_model.STATE["core_number"] is None or mlu_model.STATE["core_version"] is None:
        raise RuntimeError("set_core_number and set_core_version come before the first trace")
    mlu_model.CALLS.append(("trace", tuple(tuple(t.shape) for t in inputs)))
    return _Fused(_trace(module, inputs, check_trace=False, **others))


torch.jit.trace = _tracing
