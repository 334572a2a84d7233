"""What the pages need beyond Markdown: formulas, each rule beside its source, the courses' rows."""

from __future__ import annotations

import html
import inspect
import pathlib
import re
import sys

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
ROOT = pathlib.Path(__file__).parent.parent
CITATION = re.compile(r"courses\.md((?:(?!\.\s|\.?</|;).)*)", re.DOTALL)  # to the sentence's end
ROW = re.compile(r"(?<![\w.#-])([0-4]-\d{1,2}|[12]\.\d)(?![\w-])")
ANCHORS = set(re.findall(r'<a id="([\d.-]+)">', (ROOT / "docs" / "courses.md").read_text()))

sys.path.insert(0, str(ROOT))


def on_pre_build(config):
    """The front page is the README, with its links to files turned to the repository's own."""
    readme = (ROOT / "README.md").read_text()
    (ROOT / "docs" / "index.md").write_text(readme.replace("docs/images/", "images/"))


def on_page_markdown(markdown, page, config, files):
    """Fills the page of rules from the catalogue."""
    return markdown.replace("<!-- rules -->", rules()) if "<!-- rules -->" in markdown else markdown


def on_page_content(content, page, config, files):
    """Turns formulas into MathML, which browsers draw by themselves, and cited rows into links."""

    def mathml(match: re.Match) -> str:
        display = "block" if match.group(1) == "div" else "inline"
        return convert(html.unescape(match.group(2)), display=display)

    content = FORMULA.sub(mathml, content)
    if page.file.src_uri == "courses.md":
        return content
    to_root = "../" * page.url.count("/")
    return CITATION.sub(lambda match: cited(match.group(), f"{to_root}courses/"), content)


def on_post_build(config):
    """Fails where a public name has no place on its room's page, or a page shows a private one."""
    import funcnet

    for room in set(funcnet.__all__) - {"__version__", "load", "save"}:  # functions of checkpoint
        page = pathlib.Path(config["site_dir"], "api", room, "index.html").read_text()
        shown = set(re.findall(rf'id="funcnet\.{room}\.([\w.]+)"', page))
        public = set(getattr(funcnet, room).__all__)
        private = {name for name in shown if name.split(".")[0] not in public}
        if public - shown or private:
            raise ValueError(
                f"docs/api/{room}.md lacks {sorted(public - shown)} and shows {sorted(private)}, "
                f"which funcnet.{room} does not name in __all__."
            )


def cited(citation: str, page: str) -> str:
    """A citation with a link at each row, such as 1-4, and each section, such as 1.6."""

    def link(match: re.Match) -> str:
        if match.group() not in ANCHORS:
            raise ValueError(f"{citation!r} cites {match.group()}, which docs/courses.md lacks.")
        return f'<a href="{page}#{match.group()}">{match.group()}</a>'

    return ROW.sub(link, citation)


def rules() -> str:
    """Every rule of the catalogue: what it says on the left, how it is written on the right."""
    from funcnet.catalogue import ROWS

    return "\n\n".join(_rule(row) for row in ROWS.values())


def _rule(row) -> str:
    rule = row.function
    says = inspect.cleandoc(rule.__doc__).split("\nArgs:")[0]
    module = inspect.getmodule(rule.fun)
    private = getattr(module, f"_{row.name}", None)
    parts = [part for part in (private, rule.fwd, rule.bwd) if part is not None]
    source = "\n\n\n".join(inspect.getsource(part).rstrip() for part in parts)
    return (
        f"## {row.name}\n\n"
        f'<div class="rule" markdown>\n<div markdown>\n\n{says}\n\n</div>\n'
        f"<div markdown>\n\n```python\n{source}\n```\n\n</div>\n</div>"
    )
