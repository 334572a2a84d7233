"""What other programs read: the fields that they need, whatever a message holds."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from funcnet import checks, discovery
from tests.support import strangers

folder = strangers.folder

NASTY = '100% \x1b[31mred\x00 <&> \ud800 ]]> :: , "quoted"\r\nsecond line: ×'


@pytest.fixture
def found(folder):
    """A judgement of each verdict, one elsewhere, one without a place."""
    failed = checks.Check("cotangent", False, NASTY, "x[0]", 3e14, float("inf"), "a factor of 2")
    noted = checks.Check("float32", True, "ok")
    report = checks.RuleReport("f", (failed, noted), seconds=0.5, detects=float("nan"))
    fine = checks.RuleReport("g", (noted,), seconds=0.25)
    file = str(folder / "my pkg" / "rules.py")
    return [
        discovery.Judgement("f", "pkg.rules", "wrong", file, 12, report=report, seconds=0.5),
        discovery.Judgement("g", "pkg.rules", "right", file, 20, report=fine, seconds=0.25),
        discovery.Judgement("h", "pkg.rules", "imprecise", file, 30, report=fine),
        discovery.Judgement("i", "pkg.rules", "by design", file, 40, report=fine),
        discovery.Judgement("TABLE['j']", "pkg.rules", "cannot be judged", file, 50, NASTY),
        discovery.Judgement("bad", "bad", "cannot be judged", "", 0, "bad does not import"),
        discovery.Judgement("far", "far", "wrong", "/usr/lib/far.py", 1, report=report),
    ]


def test_json(found):
    document = json.loads(discovery.to_json(found), parse_constant=pytest.fail)
    assert document["format"] == 1
    assert document["counts"] == {
        "right": 1, "wrong": 2, "imprecise": 1, "by design": 1, "cannot be judged": 2,
    }  # fmt: skip
    first, *_, last = document["rules"]
    assert (first["file"], first["line"], last["file"]) == (
        "my pkg/rules.py", 12, "/usr/lib/far.py",
    )  # fmt: skip
    assert checks.RuleReport.from_dict(first["report"]).failed[0].message == NASTY
    assert document["rules"][4]["report"] is None


def test_junit(found):
    text = discovery.to_junit(found)
    text.encode()
    root = ET.fromstring(text.encode())
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "7", "failures": "2", "errors": "2", "skipped": "0"}
    cases = {case.get("name"): case for case in suite}
    assert {case.get("classname") for case in cases.values()} == {"pkg.rules", "bad", "far"}
    assert {name: [child.tag for child in case] for name, case in cases.items()} == {
        "f": ["failure"], "g": [], "h": ["system-out"], "i": ["system-out"],
        "TABLE['j']": ["error"], "bad": ["error"], "far": ["failure"],
    }  # fmt: skip
    assert cases["f"].get("file") == "my pkg/rules.py"
    assert cases["f"][0].text.startswith("my pkg/rules.py:12\n")
    assert "100% ?[31mred? <&> ? ]]>" in cases["f"][0].text
    root = ET.fromstring(discovery.to_junit(found, ["imprecise"]).encode())
    assert root.get("failures") == "3"


def test_sarif(found):
    """The fields that SARIF 2.1.0 requires, and those that GitHub's code scanning does."""
    log = json.loads(discovery.to_sarif(found))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "funcnet"
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
    results = run["results"]
    assert [result["ruleId"] for result in results] == [
        *("wrong", "imprecise", "by-design", "cannot-be-judged", "cannot-be-judged", "wrong"),
    ]
    assert [result["level"] for result in results] == [
        *("error", "warning", "note", "warning", "warning", "error"),
    ]
    for result in results:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert location["logicalLocations"][0]["fullyQualifiedName"]
    physical = results[0]["locations"][0]["physicalLocation"]
    assert physical == {
        "artifactLocation": {"uri": "my%20pkg/rules.py"},
        "region": {"startLine": 12},
    }
    assert "physicalLocation" not in results[4]["locations"][0]
    far = results[5]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert far["uri"] == "file:///usr/lib/far.py"
    assert len({json.dumps(result["partialFingerprints"]) for result in results}) == len(results)


def test_github(found):
    lines = discovery.to_github(found, ["imprecise"])
    pattern = r"::(error|warning) (?:file=([^,:]+),line=(\d+),)?title=([^,:]+)::([^\r\n]+)"
    parts = [re.fullmatch(pattern, line).groups() for line in lines]
    assert [(kind, file, line) for kind, file, line, *_ in parts] == [
        ("error", "my pkg/rules.py", "12"),
        ("error", "my pkg/rules.py", "30"),
        ("warning", "my pkg/rules.py", "50"),
        ("warning", None, None),
        ("error", "/usr/lib/far.py", "1"),
    ]
    assert parts[0][3] == "pkg.rules%3Af is wrong"
    assert parts[2][3] == "pkg.rules%3ATABLE['j'] cannot be judged"
    assert "100%25 " in parts[2][4]
    assert "%0D%0Asecond line" in parts[2][4]
