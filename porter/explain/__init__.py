# SPDX-License-Identifier: Apache-2.0
"""One page for each code, ``PTxxx.md``; ``porter.errors.explain`` reads them."""
