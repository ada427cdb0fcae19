# SPDX-License-Identifier: Apache-2.0
"""The rewrite rules that come with porter: one rule, or one tight family, per file.

``porter.registry`` finds every module of this package; a name that starts with an underscore holds helpers and no
rules. Third parties add rules through the entry point group ``porter.rewrites``.
"""
