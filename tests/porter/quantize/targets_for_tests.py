# SPDX-License-Identifier: Apache-2.0
"""Targets whose tensors are integers, with schemes of several vendors."""

from porter.target import Target

#: Threshold / 128, half up, symmetric, per-channel int8 weights: D-Robotics rdk_doc, expert/user_guide.md.
BPU = """
[target]
name = "bpu"
[runtime]
framework = "test"
dtypes = ["float32", "int8", "int16", "int32", "int64", "bool"]
[quantization]
scheme = "symmetric"
qmax = { int8 = 127, int16 = 32767 }
qmin = { int8 = -128, int16 = -32768 }
scale = "absmax/-qmin"
rounding = "half_up"
flow = "tensors"
widths = { int8 = ["int8", "int8"], w8a16 = ["int8", "int16"] }
quantized_ops = ["conv2d", "linear", "add", "mul", "sigmoid"]
passive_ops = ["reshape", "flatten", "permute", "cat", "max_pool2d", "resize"]
fused_followers = ["relu", "add"]
table_ops = ["sigmoid"]
per_channel_axis = 0
weight_granularity = "channel"
bias = "int32"
accumulator = "int32"
output_dtypes = ["int8", "int16", "int32"]
[ops.mul]
quantized = ["int8"]
"""


def load(folder, text=BPU, **changes):
    """The target with some keys of its quantization changed (TOML texts)."""
    for key, value in changes.items():
        lines = text.splitlines()
        at = next((i for i, line in enumerate(lines) if line.startswith(f"{key} = ")), None)
        if at is None:
            at = lines.index("[quantization]")
            lines[at] += f"\n{key} = {value}"
        else:
            lines[at] = f"{key} = {value}"
        text = "\n".join(lines)
    path = folder / "target.toml"
    path.write_text(text)
    return Target.load(path)
