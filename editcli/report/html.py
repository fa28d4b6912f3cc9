"""One self-contained HTML page: its frame, its style, and the pieces that it is put together from.

Nothing is fetched and no script runs. `said` is the only way for text into the page: it escapes
markup, and shows control characters instead of passing them on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from string import Template

from editcli.cli.console import printable

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="generator" content="$generator">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
<footer>Written by $generator. This page is complete in itself: it loads nothing.</footer>
</body>
</html>
""")

_STYLE = """\
:root { --page: #fff; --ink: #1c1f24; --quiet: #5a6270; --line: #d8dce3; --panel: #f5f6f8;
  --memory: #1f5fbf; --context: #b04a00; --frame: #1c1f24; --warn: #8a4b00; --bad: #a3182c;
  --code: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14161a; --ink: #e6e8ec; --quiet: #a0a8b5; --line: #343a44; --panel: #1d2026;
    --memory: #7fb0ff; --context: #ffa866; --frame: #fff; --warn: #ffc266; --bad: #ff8a95; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1rem; }
footer { color: var(--quiet); font-size: .875rem; padding: 2rem 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .5rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--memory); }
bdi, dd { overflow-wrap: anywhere; }
code, .id { font-family: var(--code); font-size: .875em; }
.quiet, figcaption, caption, dt { color: var(--quiet); }
.warn { border-left: 4px solid var(--warn); padding: .25rem .75rem; background: var(--panel); }
.bad { color: var(--bad); font-weight: 600; }
.badge { display: inline-block; border: 1px solid var(--line); border-radius: 1em;
  padding: 0 .6em; font-size: .8125rem; background: var(--panel); }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .25rem 1rem;
  margin: .75rem 0; }
dd { margin: 0; min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; font-size: .9375rem; }
caption { text-align: left; font-size: .875rem; padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
td .id, td a { white-space: nowrap; }
td:has(bdi) { min-width: 8rem; }
time { white-space: nowrap; }
thead th { color: var(--quiet); font-size: .8125rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
ol.timeline { list-style: none; margin: 0; padding: 0; }
ol.timeline > li { border-left: 3px solid var(--line); padding: 0 0 1rem 1rem; }
ol.timeline > li.shown { border-left-color: var(--memory); }
ol.timeline p { margin: 0; max-width: none; }
details { margin: .25rem 0; }
summary { cursor: pointer; }
details ul { margin: .25rem 0; padding-left: 1.25rem; }
figure { margin: 1rem 0; }
figure h3 { margin-top: 0; }
figcaption { font-size: .875rem; }
.maps { display: flex; flex-wrap: wrap; gap: 0 2.5rem; }
.maps figure { max-width: 100%; }
.map { display: inline-block; vertical-align: middle; }
.map text { fill: var(--quiet); font: 11px system-ui, "DejaVu Sans", sans-serif; }
.map .cell { stroke: var(--line); stroke-width: 1; fill: var(--memory); }
.map.context .cell { fill: var(--context); }
.map .frame { fill: none; stroke: var(--frame); stroke-width: 2.5; }
.legend { display: flex; align-items: center; gap: .5rem; font-size: .875rem;
  color: var(--quiet); }
.legend span:last-child { margin-left: 1rem; }
.steps { display: block; width: 100%; height: 7rem; border-bottom: 1px solid var(--line); }
.steps polygon { fill: var(--memory); fill-opacity: .15; }
.steps polyline { fill: none; stroke: var(--memory); stroke-width: 2;
  vector-effect: non-scaling-stroke; }
.ends { display: flex; justify-content: space-between; font-size: .875rem; color: var(--quiet); }
@media screen and (max-width: 48rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, caption, tbody, tr, td { display: block; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td, td.number { border: 0; padding: .1rem 0 .1rem 7rem; position: relative; min-height: 1.8em;
    text-align: left; white-space: normal; }
  td:first-child { font-weight: 600; }
  td::before { content: attr(data-label); position: absolute; left: 0; width: 6.5rem;
    color: var(--quiet); font: .8125rem/1.8 system-ui, "DejaVu Sans", sans-serif; } }
@media print {
  :root { --page: #fff; --ink: #000; --quiet: #444; --line: #bbb; --panel: #fff;
    --memory: #1f5fbf; --context: #b04a00; --frame: #000; --warn: #8a4b00; --bad: #a3182c; }
  body { font-size: 10pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main, footer { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  tr, figure, ol.timeline > li > p { break-inside: avoid; }
  .scroll { overflow: visible; }
  .maps { flex-wrap: nowrap; gap: 1rem; }
  .maps figure { flex: 1 1 0; min-width: 0; }
  .map { max-width: 100%; height: auto; } }
"""


def page(title: str, body: Sequence[str], generator: str) -> str:
    """The whole document; `body` is markup, the rest text."""
    return _PAGE.substitute(
        title=said(title), style=_STYLE, body="\n".join(body), generator=said(generator)
    )


def said(text: object) -> str:
    """Text as it may stand in markup, also in an attribute."""
    return escape(printable(str(text)))


def quoted(text: str) -> str:
    """Text of a fact, which may run from right to left."""
    return f'<bdi dir="auto">{said(text)}</bdi>'


def section(name: str, heading: str, parts: Sequence[str]) -> str:
    """A part of the page with a heading that can be linked to; empty without `parts`."""
    if not parts:
        return ""
    inner = "\n".join(parts)
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n{inner}\n</section>'
    )


def moment(at: str) -> str:
    """A time of the history, in UTC, so that a page reads the same everywhere."""
    utc = datetime.fromisoformat(at).astimezone(UTC)
    return f'<time datetime="{said(at)}">{utc:%Y-%m-%d %H:%M}</time>'


def pairs(values: Mapping[str, str]) -> str:
    """Names and what they mean, as markup; those with nothing to say are left out."""
    rows = "".join(f"<dt>{said(k)}</dt><dd>{value}</dd>" for k, value in values.items() if value)
    return f"<dl>{rows}</dl>"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    numbers: Sequence[str] = (),
) -> str:
    """Rows of markup under `columns`; `numbers` are set flush right.

    On a narrow screen each row becomes a list of its cells.
    """
    kinds = [' class="number"' if name in numbers else "" for name in columns]
    head = "".join(
        f'<th scope="col"{kind}>{said(name)}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td data-label="{said(name)}"{kind}>{cell}</td>'
            for name, kind, cell in zip(columns, kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    told = f"<caption>{said(caption)}</caption>" if caption else ""
    return f"<table>{told}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def figure(value: object, *, sign: bool = False) -> str:
    """A number of a table; a dash for anything else."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return '<span class="quiet">–</span>'
    value = round(value, 3) or 0.0  # never -0.000
    return f"{value:+.3f}" if sign else f"{value:.3f}"
