"""What was tested as JUnit XML, which every CI reads: a suite for each machine, a test case for each case. Pure.

Source: the schema of Apache Ant's JUnit task, as CI servers read it; `file` and `line` are pytest's own.
"""

from __future__ import annotations

import re
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from server.bench.cases import Case, Outcome

_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 text may hold, not even escaped."""
_SKIPPED = {"skipped": "skipped", "left out": "left out: the time was up", "xfailed": "known to fail"}


def junit(found: Outcome) -> bytes:
    """The report as a file's bytes."""
    root = Element("testsuites", {"name": "edgewise", **_counts(found.cases), "time": f"{found.seconds:.3f}"})
    for machine, cases in groupby(found.cases, key=lambda case: case.machine):
        own = list(cases)
        seconds = sum(case.seconds for case in own)
        suite = SubElement(root, "testsuite", {"name": _text(machine), **_counts(own), "time": f"{seconds:.3f}"})
        for case in own:
            _add(suite, case)
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _counts(cases: list[Case] | tuple[Case, ...]) -> dict[str, str]:
    failed = sum(case.verdict == "failed" for case in cases)
    skipped = sum(case.verdict in _SKIPPED for case in cases)
    return {"tests": str(len(cases)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}


def _add(suite: Element, case: Case) -> None:
    where = {"file": _text(case.file), "line": str(case.line)} if case.file else {}
    told = {"classname": _text(f"{case.machine}.{case.what}"), "name": _text(case.name)}
    element = SubElement(suite, "testcase", {**told, **where, "time": f"{case.seconds:.3f}"})
    lines = [_text(line) for line in case.lines]
    if case.verdict == "failed":
        SubElement(element, "failure", message=lines[0] if lines else "failed").text = "\n".join(lines)
    elif case.verdict in _SKIPPED:
        SubElement(element, "skipped", message=lines[0] if lines else _SKIPPED[case.verdict])


def _text(value: str) -> str:
    return _NO_XML.sub("\ufffd", value)
