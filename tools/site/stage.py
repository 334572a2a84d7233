"""The pages as plain Markdown in one folder, which is all that the renderer is given."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

from tools.site import api, run

ROOT = Path(__file__).parent.parent.parent
PAGES = ROOT / "build" / "pages"
REPOSITORY = {  # files of the repository that are pages too
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/README.md": "studies.md",
    "native/README.md": "native.md",
}
FIGURE = re.compile(r"`figures/(\w+\.png)`")
ROW = re.compile(r"[0-4]-\d{1,2}")
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")


def write(folder: Path) -> None:
    """Writes all pages into `folder`, which is emptied first."""
    if folder.exists():
        shutil.rmtree(folder)
    no_pages = shutil.ignore_patterns("api", "*.json", "__pycache__")
    shutil.copytree(ROOT / "docs", folder, ignore=no_pages)
    shutil.copytree(ROOT / "experiments" / "figures", folder / "images" / "studies")
    shutil.copy(ROOT / "docs" / "scorecard.json", folder)
    for source, target in REPOSITORY.items():
        text = (ROOT / source).read_text()
        (folder / target).write_text(relinked(text, (ROOT / source).parent))
    for picture in run.CACHE.glob("*/*.*"):
        made = folder / "images" / "made" / picture.parent.name
        made.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, made)
    for page in folder.glob("course_*.md"):
        page.write_text(page.read_text().replace("<!-- rows -->", rows(page.stem[-1])))
    gallery_page = folder / "gallery.md"
    gallery_page.write_text(gallery_page.read_text().replace("<!-- gallery -->", gallery()))
    rules = folder / "rules.md"
    rules.write_text(rules.read_text().replace("<!-- rules -->", api.rules()))
    (folder / "api").mkdir()
    for room in api.ROOMS:
        (folder / "api" / f"{room}.md").write_text(api.page(room))


def relinked(text: str, base: Path) -> str:
    """A page's links between files of the repository, as links between pages."""

    def link(match: re.Match[str]) -> str:
        path = (base / match[1]).resolve().relative_to(ROOT).as_posix()
        page = REPOSITORY.get(path, path.removeprefix("docs/"))
        page = page.replace("experiments/figures/", "images/studies/")
        return page + (match[2] or "")

    return LINK.sub(link, text)


def studies() -> list[list[str]]:
    """The rows of experiments/README.md: rows of the courses, theirs, ours, command."""
    lines = (ROOT / "experiments" / "README.md").read_text().splitlines()
    table = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in cells] for cells in table[1:]]


def rows(course: str) -> str:
    """What a course got and what funcnet gets, of the studies at its rows."""

    def linked(match: re.Match[str]) -> str:
        return f"[{match.group()}](courses.md#{match.group()})"

    lines = ["| row | the course | funcnet | command |", "|---|---|---|---|"]
    for names, *cells in studies():
        if re.search(rf"(?<![\d-]){course}-\d", names):
            cells = [FIGURE.sub(r"[\1](images/studies/\1)", cell) for cell in cells]
            lines.append("| " + " | ".join([ROW.sub(linked, names), *cells]) + " |")
    return "\n".join(lines)


def gallery() -> str:
    """Every figure of the studies, with the study's question and the rows that name it."""
    parts = []
    for study in sorted((ROOT / "experiments").glob("[a-z]*.py")):
        figures = sorted((ROOT / "experiments" / "figures").glob(f"{study.stem}*.png"))
        if figures:
            asks = (ast.get_docstring(ast.parse(study.read_text())) or "").split("\n\n")[0]
            parts += [f"## {study.stem}", asks, f"`python -m experiments.{study.stem}`"]
            parts += [f"![{f.stem}: {asks}](images/studies/{f.name})" for f in figures]
    return "\n\n".join(parts)
