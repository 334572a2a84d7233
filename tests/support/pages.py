"""What tests of pages ask of HTML."""

import re
from html.parser import HTMLParser

VOID = {"img", "meta", "br"}


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.sources = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def read(page):
    """The tags of a page and its text; it is balanced, small, and needs nothing from elsewhere."""
    assert len(page.encode()) < 2_000_000
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in reader.sources)
    assert not re.search(r"@import|url\((?!#)", page)
    assert not {"script", "link", "iframe"} & set(reader.tags)
    return reader.tags, " ".join(" ".join(reader.text).split())
