# SPDX-License-Identifier: Apache-2.0
"""Smaller models that stay legal for their target: pruning by batch norm gamma, and scaling of width and depth."""
