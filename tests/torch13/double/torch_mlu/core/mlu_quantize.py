# SPDX-License-Identifier: Apache-2.0
"""Stand-in of torch_mlu.core.mlu_quantize: swaps Conv2d and Linear for layers that compute as the MLU270 does.

What is modelled, with where it is known from:

* layers are matched by class name ('Conv2d', 'Linear'); weights stay float32; a loaded layer has the parameters weight,
  bias (zeros where the file has none), scale, quantized_mode (published state dicts, a published trace of a model);
* scale = [qmax / absmax of the input, qmax / absmax of the weight], 1.0 for absmax 0; quantized_mode 1 is int8, 2 is
  int16; per channel adds quantized_by_channel and scale_weight_per_channel (Catch, observer.py);
* q = clamp(round(x * scale)), y = sum(qx * qw) / (sx * sw) + bias; depthwise convolution stays in float (CNML 7.2.0);
* without a qconfig dict, dtype is ignored and the first convolution becomes an image layer, which asserts on any but 1,
  3 or 4 input channels (measured on the released Python quantizer).
"""

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

QMAX = {1: 127, 2: 32767, 3: 127, 4: 32767}
MODES = {"int8": 1, "int16": 2}
KEYS = {"iteration", "use_avg", "data_scale", "mean", "std", "firstconv", "per_channel"}
DEFAULTS = {
    "iteration": 1,
    "use_avg": False,
    "data_scale": 1.0,
    "mean": [0],
    "std": [1],
    "firstconv": True,
    "per_channel": False,
}


def _quantized(x, scale, qmax):
    # double: sums of products of 16-bit integers need more than float's 24 bits
    return torch.clamp(torch.round(x.double() * scale.double()), -qmax - 1, qmax)


class _Quantized:
    """What the swapped layers share. ``observe`` is the calibration that gen_quant=True asks for."""

    is_first_layer = True  # of the class, never reset: only the first quantized model of a process gets an image layer

    def prepare(self, dtype, gen_quant, per_channel, first):
        self.mode, self.observe, self.absmax = MODES[dtype], gen_quant, 0.0
        if self.bias is None:
            self.bias = nn.Parameter(torch.zeros(self.weight.shape[0]))
            self.had_bias = False
        else:
            self.had_bias = True
        if not gen_quant:
            self.scale = nn.Parameter(torch.zeros(2))
            self.register_buffer("quantized_mode", torch.zeros(1, dtype=torch.int32))
            if per_channel:
                self.register_buffer("quantized_by_channel", torch.zeros(1, dtype=torch.int64))
                self.scale_weight_per_channel = nn.Parameter(torch.zeros(self.weight.shape[0]))
            if first is not None:
                self.register_buffer("input_mean", torch.zeros(1, first, 1, 1))
                self.register_buffer("input_std", torch.ones(1, first, 1, 1))

    def _load_from_state_dict(self, state, prefix, *others):
        if not self.had_bias and prefix + "bias" not in state:
            state = dict(state)
            state[prefix + "bias"] = torch.zeros_like(self.bias)
        super()._load_from_state_dict(state, prefix, *others)

    def scales(self):
        per_channel = getattr(self, "scale_weight_per_channel", None)
        weight = self.scale[1] if per_channel is None else per_channel.reshape([-1] + [1] * (self.weight.dim() - 1))
        return self.scale[0], weight

    def forward(self, x):
        if self.observe:
            self.absmax = max(self.absmax, float(x.abs().max()))
            return self.compute(x, self.weight, self.bias)
        if getattr(self, "input_mean", None) is not None:
            x = (x - self.input_mean) / self.input_std
        mode = int(self.quantized_mode)
        if mode not in (1, 2):
            raise RuntimeError(f"{type(self).__name__} is not quantized: mode {mode}")
        if isinstance(self, nn.Conv2d) and self.groups == self.in_channels > 1:
            return self.compute(x, self.weight, self.bias)
        half, (sx, sw), qmax = x.dtype, self.scales(), QMAX[mode]
        y = self.compute(_quantized(x, sx, qmax), _quantized(self.weight, sw, qmax), None)
        by_channel = sw.reshape([-1] + [1] * (y.dim() - 2) if y.dim() > 2 else [-1]) if sw.dim() else sw
        bias = self.bias.double().reshape([-1] + [1] * (y.dim() - 2) if isinstance(self, nn.Conv2d) else [-1])
        return (y / (sx.double() * by_channel.double()) + bias).to(half)


class MLUConv2d(_Quantized, nn.Conv2d):
    def compute(self, x, weight, bias):
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class MLULinear(_Quantized, nn.Linear):
    def compute(self, x, weight, bias):
        return F.linear(x, weight, bias)


def quantize_dynamic_mlu(model, qconfig_spec=None, dtype=None, mapping=None, inplace=False, gen_quant=False):
    model = model if inplace else copy.deepcopy(model)
    qconfig = dict(DEFAULTS)
    if qconfig_spec is None:
        dtype = "int8"
    else:
        unknown = set(qconfig_spec) - KEYS
        if unknown:
            raise KeyError(f"qconfig has no {sorted(unknown)}")
        qconfig.update(qconfig_spec)
    _swap(model, dtype or "int8", gen_quant, qconfig)
    return model


def _swap(module, dtype, gen_quant, qconfig):
    for name, child in module.named_children():
        kind = {"Conv2d": MLUConv2d, "Linear": MLULinear}.get(child._get_name())
        if kind is None:
            _swap(child, dtype, gen_quant, qconfig)
            continue
        first = None
        if kind is MLUConv2d and qconfig["firstconv"] and _Quantized.is_first_layer:
            assert child.in_channels in (1, 3, 4), "in_channels of the first convolution must be 1, 3 or 4"
            first = child.in_channels
            _Quantized.is_first_layer = False
        made = copy.copy(child)
        made.__class__ = kind
        made._parameters, made._buffers = child._parameters.copy(), child._buffers.copy()
        made.prepare(dtype, gen_quant, qconfig["per_channel"], first)
        setattr(module, name, made)
