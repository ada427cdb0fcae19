# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH123
"""Stand-in of torch_mlu.core.mlu_model: records every call, and writes the offline files at the traced run."""

import torch

#: Every call, in order: (name, argument).
CALLS = []
STATE = {"core_number": None, "core_version": None, "input_format": 0, "name": "", "device": 0}


def mlu_device():
    return torch.device("cpu")


def _set(key, value):
    CALLS.append((key, value))
    STATE[key] = value


def set_device(index):
    _set("device", index)


def set_core_number(number):
    if number not in (1, 4, 16):
        raise ValueError(f"core number {number!r}")
    _set("core_number", number)


def set_core_version(version):
    if version not in ("MLU270", "MLU220"):
        raise ValueError(f"core version {version!r}")
    _set("core_version", version)


def set_input_format(order):
    if order not in (0, 1, 2, 3):
        raise ValueError(f"input format {order!r}")
    _set("input_format", order)


def save_as_cambricon(name):
    _set("name", name)


def write_offline(name, inputs, outputs):
    """The two files that the real one writes: a closed format behind "\\x7fMEF", and its description."""
    with open(name + ".cambricon", "wb") as file:
        file.write(b"\x7fMEF" + b"\0" * 60)
    lines = ["Function number: 1", "Name: subnet0"]
    for word, tensors in (("Input", inputs), ("Output", outputs)):
        lines.append(f"{word} number: {len(tensors)}")
        for tensor in tensors:
            shape = list(tensor.shape)
            last = [shape[0], *shape[2:], shape[1]] if len(shape) > 2 else shape
            kind = "CNRT_FLOAT16" if tensor.dtype == torch.float16 else "CNRT_FLOAT32"
            lines.append("Shape(dim): {} Data type: {} Dim Order: CNRT_NHWC".format(" ".join(map(str, last)), kind))
    lines.append(f"Model Parallelism: {STATE['core_number']}")
    with open(name + ".cambricon_twins", "w") as file:
        file.write("\n".join(lines) + "\n")
