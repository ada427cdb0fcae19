# SPDX-License-Identifier: Apache-2.0
"""Emitters: each prints the same findings and reports in one format."""
