# SPDX-License-Identifier: Apache-2.0
"""Acme's NPU for porter: the target is acme-npu.toml in this package, the rule is in rules.py."""
