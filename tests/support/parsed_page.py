"""A page of HTML as a test looks at it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link"}
NOT_TEXT = ("script", "style")

Attributes = dict[str, str | None]


class Page(HTMLParser):
    """A page as parsed: tags with their attributes, all text, the ``sources`` of scripts and
    styles, and the texts of the ``rows`` of tables, cell by cell. Every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Attributes]] = []
        self.text = ""
        self.sources: dict[str, list[str]] = {tag: [] for tag in NOT_TEXT}
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag in NOT_TEXT:
            self.sources[tag].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in NOT_TEXT:
            self.sources[self._open[-1]][-1] += data
            return
        self.text += data
        if "td" in self._open:
            self.rows[-1][-1] += data

    def of(self, tag: str, kind: str = "") -> list[Attributes]:
        """The attributes of every such tag, of that class if given."""
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and (not kind or kind in (attrs.get("class") or "").split())
        ]

    def between(self, start: str, end: str = "") -> str:
        """The text from the last heading ``start`` on, up to ``end``."""
        text = self.text[self.text.rindex(f"\n{start}\n") :]
        return text[: text.index(f"\n{end}\n")] if end else text
