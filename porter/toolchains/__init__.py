# SPDX-License-Identifier: Apache-2.0
"""The vendors' own compilers as judges: one thin adapter a toolchain, each in an environment and processes of its own.

porter never imports one of them. :mod:`porter.toolchains.environment` installs them, :mod:`porter.toolchains.session`
asks them.
"""
