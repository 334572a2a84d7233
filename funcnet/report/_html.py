"""Elements of HTML, in which whatever is not an element is text."""

from __future__ import annotations

import html
from typing import Any


class Element(str):
    """HTML that is written as it is; any other string is text, and is escaped."""

    __slots__ = ()


_VOID = {"img", "meta", "br"}


def tag(name: str, /, *inside: Any, **attributes: Any) -> Element:
    """An element: text is escaped, elements and lists of them are not, and None is nothing.

    >>> tag("p", "1 < 2", tag("b", "so"), title='"')
    '<p title="&quot;">1 &lt; 2<b>so</b></p>'
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Element(f"<{name}{said}>")
    return Element(f"<{name}{said}>{joined(inside)}</{name}>")


def joined(inside: Any) -> Element:
    """Texts and elements in a row."""
    if inside is None:
        return Element("")
    if isinstance(inside, list | tuple):
        return Element("".join(map(joined, inside)))
    return inside if isinstance(inside, Element) else Element(html.escape(str(inside)))


def table(head: Any, rows: Any, **attributes: Any) -> Element:
    """A table, its head a row of names or None, in a box that scrolls where it is too wide."""
    top = None if head is None else tag("thead", tag("tr", [tag("th", name) for name in head]))
    body = [
        row if isinstance(row, Element) else tag("tr", [tag("td", cell) for cell in row])
        for row in rows
    ]
    return tag("div", tag("table", top, tag("tbody", body), **attributes), class_="scrolls")


def document(title: str, style: str, *inside: Any) -> str:
    """A whole page."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Element(style)),
    ]
    return "<!doctype html>\n" + tag("html", tag("head", head), tag("body", *inside), lang="en")
