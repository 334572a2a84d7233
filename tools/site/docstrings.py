"""Docstrings as griffe reads them: examples are code, arguments of a NamedTuple its fields."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?:^[ ]*(?:>>> ?|\.\.\. ?).*\n?(?:^[ ]*\S.*\n?)*)+", re.MULTILINE)


def fenced(text: str) -> str:
    """The text with each doctest, its output included, between fences."""

    def fence(match: re.Match[str]) -> str:
        lines = match.group().rstrip("\n").split("\n")
        indent = re.match(r" *", lines[0]).group()  # type: ignore[union-attr]
        body = [line for line in lines if not line.strip().startswith("# doctest:")]
        body = [re.sub(r"\s*#\s*doctest:.*$", "", line) for line in body]
        return "\n".join([f"{indent}```pycon", *body, f"{indent}```"]) + "\n"

    return EXAMPLE.sub(fence, text)


class Docstrings(griffe.Extension):
    """What mkdocstrings loads by `extensions: [tools.site.docstrings]`."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.is_alias or obj.docstring is None:
            return
        text = fenced(obj.docstring.value)
        if obj.is_class and any(str(base).endswith("NamedTuple") for base in obj.bases):
            text = re.sub(r"^Args:$", "Attributes:", text, flags=re.MULTILINE)
        obj.docstring.value = text
