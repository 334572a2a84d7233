"""The pages as plain Markdown in one folder, which is all that the renderer is given."""

from __future__ import annotations

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
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")


def write(folder: Path) -> None:
    """Writes all pages into `folder`, which is emptied first."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("api", "*.json"))
    shutil.copytree(ROOT / "experiments" / "figures", folder / "images" / "studies")
    shutil.copy(ROOT / "docs" / "scorecard.json", folder)
    for source, target in REPOSITORY.items():
        text = (ROOT / source).read_text()
        (folder / target).write_text(relinked(text, (ROOT / source).parent))
    for picture in run.CACHE.glob("*/*.*"):
        made = folder / "images" / "made" / picture.parent.name
        made.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, made)
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
