"""The rendered site: formulas as MathML, citations as links, and all that must be true of it."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

from latex2mathml.converter import convert

import funcnet
from tools.site import api

FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
CITATION = re.compile(r"courses\.md((?:(?!\.\s|\.?</|;).)*)", re.DOTALL)  # to the sentence's end
ROW = re.compile(r"(?<![\w.#-])([0-4]-\d{1,2}|[12]\.\d)(?![\w-])")
ARTICLE = re.compile(r"<article.*?</article>", re.DOTALL)
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
LONG = 40  # characters of TeX that may be wider than a telephone: such a formula scrolls
BASE = "http://site/"  # a name for the site's root, which no request is made to


def finish(site: Path) -> list[str]:
    """Completes the pages in place, and says each fault that is left."""
    anchors = set(re.findall(r'<a id="([\d.-]+)">', (api.ROOT / "docs/courses.md").read_text()))
    faults: list[str] = []
    for path in sorted(site.rglob("*.html")):
        text = path.read_text()
        name = path.relative_to(site).as_posix()
        depth = "../" * name.count("/")

        def citation(found: re.Match[str], name: str = name, depth: str = depth) -> str:
            return cited(found.group(), f"{depth}courses/", anchors, name, faults)

        def complete(match: re.Match[str], name: str = name, link: Any = citation) -> str:
            article = TABLE.sub(scrolling, FORMULA.sub(mathml, match.group()))
            return article if name == "courses/index.html" else CITATION.sub(link, article)

        path.write_text(ARTICLE.sub(complete, text))
    return faults + links(site) + prose(site) + names(site)


def mathml(match: re.Match[str]) -> str:
    display = "block" if match.group(1) == "div" else "inline"
    drawn = convert(html.unescape(match.group(2)), display=display)
    long = display == "inline" and len(match.group(2)) > LONG
    return f'<span class="formula">{drawn}</span>' if long else drawn


def scrolling(match: re.Match[str]) -> str:
    """A table that scrolls in itself; one of many columns keeps its first and last in sight."""
    columns = match.group().partition("</tr>")[0].count("<th")
    kind = "wide" if columns > 6 else "table"
    return f'<div class="{kind}" tabindex="0">{match.group()}</div>'


def cited(citation: str, page: str, anchors: set[str], name: str, faults: list[str]) -> str:
    """A citation with a link at each row, such as 1-4, and each section, such as 1.6."""

    def link(match: re.Match[str]) -> str:
        if match.group() not in anchors:
            faults.append(f"{name} cites {match.group()}, which docs/courses.md lacks")
        return f'<a href="{page}#{match.group()}">{match.group()}</a>'

    return ROW.sub(link, citation)


class Page(HTMLParser):
    """The links, the anchors and the resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.anchors |= {has[key] for key in ("id", "name") if key in has}
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        loads = has.get("src") if tag in ("script", "img", "iframe", "source") else None
        if tag == "link" and has.get("rel") in ("stylesheet", "preload", "icon", "preconnect"):
            loads = has.get("href")
        if loads:
            self.resources.append(loads)


def links(site: Path) -> list[str]:
    """Links to pages and anchors that are not there, and what would be loaded from elsewhere."""
    pages = {
        path.relative_to(site).as_posix(): Page(path.read_text()) for path in site.rglob("*.html")
    }
    faults = []
    for name, page in sorted(pages.items()):
        if name == "404.html":  # served from anywhere: its links are absolute
            continue
        for link in page.links + page.resources:
            target = urljoin(BASE + name, link)
            if not target.startswith(BASE):
                if link in page.resources and not link.startswith("data:"):
                    faults.append(f"{name} loads {link} from elsewhere")
                continue
            path, _, anchor = unquote(target.removeprefix(BASE)).partition("#")
            path = f"{path}index.html" if path.endswith("/") or not path else path
            if not (site / path).is_file():
                faults.append(f"{name}: no page for {link}")
            elif anchor and path in pages and anchor not in pages[path].anchors:
                faults.append(f"{name}: no anchor for {link}")
    for path in site.rglob("*.css"):
        for found in re.findall(r"url\([\"']?(https?:[^)]*)", path.read_text()):
            faults.append(f"{path.name} loads {found} from elsewhere")
    return faults


def prose(site: Path) -> list[str]:
    """Doctests that were rendered as prose, and formulas as TeX."""
    faults = []
    for path in site.rglob("*.html"):
        text = path.read_text()
        name = path.relative_to(site).as_posix()
        if re.search(r"<blockquote>\s*<blockquote>\s*<blockquote>", text):
            faults.append(f"{name} shows a doctest as quotations")
        if 'class="arithmatex"' in text:
            faults.append(f"{name} shows a formula as TeX")
        if re.search(r"<p>[^<]*\n?\|[ -]*---", text):
            faults.append(f"{name} shows a table as prose")
    return faults


def names(site: Path) -> list[str]:
    """Public names without a place on their room's page, and private ones that have one."""
    faults = []
    for room in api.ROOMS:
        page = (site / "api" / room / "index.html").read_text()
        shown = set(re.findall(rf'id="funcnet\.{room}\.([\w.]+)"', page))
        public = set(getattr(funcnet, room).__all__)
        private = {name for name in shown if name.split(".")[0] not in public | {"metrics"}}
        private |= {name for name in shown if re.search(r"(^|\.)_(?!_)", name)}
        faults += [f"api/{room} lacks {name}" for name in sorted(public - shown)]
        faults += [f"api/{room} shows {name}, which is not in __all__" for name in sorted(private)]
    if f"funcnet {funcnet.__version__} " not in (site / "index.html").read_text():
        faults.append(f"the site does not say funcnet {funcnet.__version__}: mkdocs.yml, copyright")
    return faults
