# SPDX-License-Identifier: Apache-2.0
"""A quantized model as one HTML page: outputs, layers ranked by what they lose, and how the values of each tensor lie
against the range that was chosen. Nothing is fetched from a network; the page works from a disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from porter.report.json import to_json

if TYPE_CHECKING:
    from porter.quantize.report import QuantizationReport

__all__ = ["quantization_html"]


def quantization_html(report: QuantizationReport) -> str:
    """The page, as text."""
    data = json.loads(to_json(_Page(report)))
    # "</" inside a script element would end it; JSON may write the slash escaped.
    embedded = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    page = resources.files("porter.report").joinpath("page", "quantization.html").read_text(encoding="utf-8")
    title = f"{report.model}: {report.dtype} on {report.target}"
    return page.replace("@TITLE@", escape(title)).replace("@DATA@", embedded)


@dataclass(frozen=True, slots=True)
class _Page:
    """The report with each origin as one text."""

    report: QuantizationReport

    def to_json(self) -> dict[str, Any]:
        data = self.report.to_json()
        for layer, found in zip(data["layers"], self.report.layers, strict=True):
            layer["place"] = str(found.origin)
        for finding, told in zip(data["findings"], self.report.findings, strict=True):
            finding["place"] = str(told.origin)
        return data
