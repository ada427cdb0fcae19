# SPDX-License-Identifier: Apache-2.0
"""JUnit XML: a test suite for the model on the target, a test case for each op, as Jenkins and GitLab read it.

An op that the gate refuses is a failure, one that a baseline knows is skipped, all others pass.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from porter.baseline import Gate, Judged

if TYPE_CHECKING:
    from porter.report.formats import Context

__all__ = ["to_junit"]

#: What XML 1.0 cannot hold even escaped; the names in a model's file are anybody's.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(gate: Gate, context: Context) -> str:
    """The whole XML document."""
    report = gate.report
    suite = Element("testsuite", name=_xml(f"porter {report.target} {report.model}"))
    properties = SubElement(suite, "properties")
    for name, value in (("target", report.target), ("device", context.title), ("model", report.model)):
        SubElement(properties, "property", name=name, value=_xml(value))
    found = {id(item.op): item for item in gate.judged if item.op is not None}
    for op in report.ops:
        place = op.origin.module or report.model
        _case(suite, f"{report.target}.{place}", f"{op.kind} {op.name}", found.get(id(op)))
    for item in gate.judged:
        if item.op is None:
            _case(suite, f"{report.target}.{report.model}", item.finding.code, item)
    cases = suite.findall("testcase")
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": "0",
    }
    for name, value in counts.items():
        suite.set(name, value)
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    root = Element("testsuites", {"name": "porter", **counts})
    root.append(suite)
    indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode")


def _case(suite: Element, classname: str, name: str, item: Judged | None) -> None:
    case = SubElement(suite, "testcase", classname=_xml(classname), name=_xml(name), time="0")
    if item is None:
        return
    f = item.finding
    verdict = item.op.verdict if item.op else f.severity
    said = f"{f.code} {verdict}: {f.message}"
    text = "\n".join(line for line in (said, f"at {f.origin}" if f.origin.known else "", f"fix: {f.fix}") if line)
    if item.state == "new":
        SubElement(case, "failure", type=f.code, message=_xml(said)).text = _xml(text)
    elif item.state == "known":
        SubElement(case, "skipped", message=_xml(f"known: {said}"))
    else:
        SubElement(case, "system-out").text = _xml(text)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
