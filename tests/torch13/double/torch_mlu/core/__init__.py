# SPDX-License-Identifier: Apache-2.0
"""Stand-in of torch_mlu.core; see torch_mlu."""
