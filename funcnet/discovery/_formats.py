"""Judgements as other programs read them: JSON, JUnit's XML, SARIF, and GitHub's log."""

from __future__ import annotations

import collections
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from funcnet import checks
from funcnet._machine import VERSION
from funcnet.discovery._judge import (
    BY_DESIGN,
    IMPRECISE,
    RIGHT,
    UNJUDGED,
    WRONG,
    Judgement,
)

# What XML 1.0 cannot hold, however it is escaped.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SARIF = {
    WRONG: ("error", "A backward rule does not give the gradient of its function."),
    IMPRECISE: ("warning", "A backward rule is less precise than autodiff of its function."),
    UNJUDGED: ("warning", "A backward rule could not be checked."),
    BY_DESIGN: ("note", "A backward rule gives another gradient on purpose."),
}


def to_json(judgements: Sequence[Judgement]) -> str:
    """Every judgement with its whole report, as JSON text.

    Args:
        judgements: What was found.
    """
    counts = collections.Counter(judgement.verdict for judgement in judgements)
    document = {
        "format": 1,
        "funcnet": VERSION,
        "counts": {verdict: counts[verdict] for verdict in checks.VERDICTS},
        "rules": [
            {
                "name": judgement.name,
                "module": judgement.module,
                "verdict": judgement.verdict,
                "file": shown(judgement.file),
                "line": judgement.line,
                "reason": judgement.reason,
                "samples": judgement.origin,
                "seconds": round(judgement.seconds, 3),
                "report": None if judgement.report is None else judgement.report.to_dict(),
            }
            for judgement in judgements
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def to_junit(judgements: Sequence[Judgement], fail_on: Sequence[str] = ()) -> str:
    """A test case a judgement, as JUnit's XML: a failure where it is wrong.

    What cannot be judged is an error there, and not a test that passed.

    Args:
        judgements: What was found.
        fail_on: Further verdicts that are failures.
    """
    bad = {WRONG, *fail_on}
    failures = sum(judgement.verdict in bad for judgement in judgements)
    errors = sum(j.verdict == UNJUDGED and j.verdict not in bad for j in judgements)
    totals = {
        "name": "funcnet check",
        "tests": str(len(judgements)),
        "failures": str(failures),
        "errors": str(errors),
        "skipped": "0",
        "time": f"{sum(judgement.seconds for judgement in judgements):.3f}",
    }
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(root, "testsuite", totals)
    for judgement in judgements:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_xml(judgement.module),
            name=_xml(judgement.name),
            file=_xml(shown(judgement.file)),
            line=str(judgement.line),
            time=f"{judgement.seconds:.3f}",
        )
        if judgement.verdict in bad or judgement.verdict == UNJUDGED:
            kind = "failure" if judgement.verdict in bad else "error"
            told = ET.SubElement(
                case, kind, message=_xml(judgement.headline), type=judgement.verdict
            )
            told.text = _xml(f"{_place(judgement)}{judgement.text}")
        elif judgement.verdict != RIGHT:
            ET.SubElement(case, "system-out").text = _xml(f"{judgement.verdict}: {judgement.text}")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def to_sarif(judgements: Sequence[Judgement], fail_on: Sequence[str] = ()) -> str:
    """What is not right, as a SARIF 2.1.0 log, which code scanning shows beside the code.

    Args:
        judgements: What was found.
        fail_on: Verdicts that are errors, beside wrong.
    """
    ids = {verdict: verdict.replace(" ", "-") for verdict in _SARIF}
    results = []
    for judgement in judgements:
        if judgement.verdict not in _SARIF:
            continue
        level = "error" if judgement.verdict in fail_on else _SARIF[judgement.verdict][0]
        results.append(
            {
                "ruleId": ids[judgement.verdict],
                "ruleIndex": list(ids).index(judgement.verdict),
                "level": level,
                "message": {"text": f"{judgement.name}: {judgement.text}"},
                "locations": [_location(judgement)],
                "partialFingerprints": {"rule/v1": judgement.label},
            }
        )
    driver = {
        "name": "funcnet",
        "version": VERSION,
        "rules": [
            {
                "id": ids[verdict],
                "shortDescription": {"text": says},
                "defaultConfiguration": {"level": level},
            }
            for verdict, (level, says) in _SARIF.items()
        ],
    }
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "utf16CodeUnits", "results": results}],
    }
    return json.dumps(log, indent=1) + "\n"


def to_github(judgements: Sequence[Judgement], fail_on: Sequence[str] = ()) -> list[str]:
    """Workflow commands, which GitHub shows as annotations at the backward functions.

    Args:
        judgements: What was found.
        fail_on: Verdicts that are errors, beside wrong.

    >>> to_github([Judgement("f", "m", "wrong", "m.py", 3, "50% off")])
    ['::error file=m.py,line=3,title=m%3Af is wrong::50%25 off']
    """
    lines = []
    for judgement in judgements:
        if judgement.verdict in (RIGHT, BY_DESIGN):
            continue
        kind = "error" if judgement.verdict in (WRONG, *fail_on) else "warning"
        where = f"file={_property(shown(judgement.file))}," if judgement.file else ""
        where += f"line={judgement.line}," if judgement.file and judgement.line else ""
        verb = "" if judgement.verdict.startswith("cannot") else "is "
        title = _property(f"{judgement.label} {verb}{judgement.verdict}")
        lines.append(f"::{kind} {where}title={title}::{_data(judgement.text)}")
    return lines


def shown(file: str) -> str:
    """A file as it is called from here, where it is below here."""
    if not file:
        return ""
    path = os.path.relpath(file) if _on_one_drive(file) else file
    return Path(file if path.startswith("..") else path).as_posix()


def _on_one_drive(file: str) -> bool:
    return os.path.splitdrive(os.path.abspath(file))[0] == os.path.splitdrive(os.getcwd())[0]


def _place(judgement: Judgement) -> str:
    return f"{shown(judgement.file)}:{judgement.line}\n" if judgement.file else ""


def _location(judgement: Judgement) -> dict[str, Any]:
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": judgement.label, "kind": "function"}]
    }
    if judgement.file:
        file = shown(judgement.file)
        location["physicalLocation"] = {
            "artifactLocation": {"uri": Path(file).as_uri() if os.path.isabs(file) else _uri(file)},
            "region": {"startLine": max(judgement.line, 1)},
        }
    return location


def _uri(file: str) -> str:
    return Path("/", file).as_uri().removeprefix("file:///")


def _xml(text: str) -> str:
    return _NO_XML.sub("?", text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
