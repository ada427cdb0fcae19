# SPDX-License-Identifier: Apache-2.0
"""The targets that come with porter, one TOML file a device (see :mod:`porter.target`)."""
