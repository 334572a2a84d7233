"""The documentation's own machinery: what it mends, and what it must notice."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

pytest.importorskip("latex2mathml", reason="the extra docs is not installed")
pytest.importorskip("griffe", reason="the extra docs is not installed")

import funcnet
from tests.support.processes import ROOT
from tools.site import api, docstrings, finish, stage


def test_a_doctest_is_fenced_with_its_output_and_without_its_options():
    text = "One.\n\n>>> f(1)  # doctest: +SKIP\n2\n>>> if x:\n...     y\n3\n\nTwo."
    fenced = "One.\n\n```pycon\n>>> f(1)\n2\n>>> if x:\n...     y\n3\n```\n\nTwo."
    assert docstrings.fenced(text) == fenced


def test_every_page_of_a_room_has_its_names_and_the_main_ones_first():
    for room in api.ROOMS:
        names = api.order(room)
        assert sorted(names) == sorted(getattr(funcnet, room).__all__)
        assert names[: len(api.MAIN[room])] == api.MAIN[room]
        sentences = {name: api.first_sentence(getattr(funcnet, room), name) for name in names}
        assert all(sentences.values()), (room, [name for name in names if not sentences[name]])


def test_the_pages_link_to_pages(tmp_path):
    stage.write(tmp_path / "pages")
    written = {path.relative_to(tmp_path / "pages").as_posix() for path in tmp_path.rglob("*.*")}
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {page for page in written if page.endswith(".md")}
    for page in listed:
        text = (tmp_path / "pages" / page).read_text()
        assert "](docs/" not in text, page
        assert "<!-- rules" not in text, page


PAGE = (
    "<article><h1 id='a'>A</h1><p>{}</p>"
    '<span class="arithmatex">\\(x\\)</span> courses.md rows 1-4 and 2.1.</article>'
)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('<a href="gone/">x</a>', "no page for gone/"),
        ('<a href="#gone">x</a>', "no anchor for #gone"),
        ('<img src="https://elsewhere.org/x.png">', "from elsewhere"),
        ("<blockquote> <blockquote><blockquote>f(1)", "a doctest as quotations"),
        ("courses.md 1-99", "cites 1-99"),
        ("a\n| --- |", "a table as prose"),
    ],
)
def test_a_fault_of_a_page_is_said(content, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "names", lambda site: [])
    page = tmp_path / "index.html"
    page.write_text(PAGE.format('<a href="#a">here</a>'))
    (tmp_path / "courses").mkdir()
    (tmp_path / "courses" / "index.html").write_text('<a id="1-4"></a><a id="2.1"></a>')
    assert finish.finish(tmp_path) == []
    assert "<math" in page.read_text()
    assert 'href="courses/#1-4"' in page.read_text()
    page.write_text(PAGE.format(content))
    assert any(fault in said for said in finish.finish(tmp_path))


def test_a_package_index_is_given_no_link_to_a_file():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = (ROOT / "README.md").read_text()
    for rule in hook["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert re.findall(r"\]\((?!https?:|#)", text) == []
    assert "(`docs/verdicts.md`)" in text


def test_the_site_names_the_version_of_the_package():
    assert f"funcnet {funcnet.__version__} " in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.integration
def test_the_program_explains_itself():
    asked = [sys.executable, "-m", "tools.site", "--help"]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--pages" in said
