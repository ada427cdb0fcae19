# SPDX-License-Identifier: Apache-2.0
"""One diagnostic, the same for every part of porter; report emitters print it, ``porter explain CODE`` explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from porter.ops import Origin

__all__ = ["Finding", "Severity"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a model, its data or its numbers.

    ``code`` is stable (``PT410``) and has a page; ``subject`` is the op, layer, value or column that it is about;
    ``origin`` the user's source, where known; ``fix`` what to do, as an imperative sentence.
    """

    code: str
    severity: Severity
    message: str
    subject: str | None = None
    origin: Origin | None = None
    fix: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form: code, severity, message, subject, origin{file,line,module} or None, fix."""
        origin = self.origin
        place = None if origin is None else {"file": origin.file, "line": origin.line, "module": origin.module}
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "subject": self.subject,
            "origin": place,
            "fix": self.fix,
        }

    def __str__(self) -> str:
        place = f" [{self.origin}]" if self.origin is not None and self.origin.known else ""
        fix = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{self.code} {self.severity}: {self.message}{place}{fix}"
