"""The page: what a run's folder and its split hold, section by section."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from funcnet import data
from funcnet.report import _figures as figures
from funcnet.report._html import Element, document, table, tag
from funcnet.train import Trained

_CELLS = 25  # classes of the largest confusion matrix that is a table
_PAIRS = 20  # confusions that are told of a larger one
_TARGETS = 4  # whose residuals are drawn
_VALUES = 8  # of an example that is no image

_STYLE = """
:root { --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --band: #f4f6f8;
  --blue: #0072b2; --red: #d55e00; --green: #00805d; --tint: 0, 114, 178; --wrong: 213, 94, 0 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e3e7ec; --soft: #9aa4af; --line: #343b44; --band: #1d2228;
    --blue: #5db4ea; --red: #ff8f4a; --green: #3ecfa4; --tint: 60, 150, 220; --wrong: 255, 130, 60 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem 1rem 3rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line) }
p { margin: .5rem 0; max-width: 46rem }
.lead { font-size: 1.1rem }
.soft, figcaption, summary { color: var(--soft); font-size: .875rem }
code { font: .85rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere }
code span { display: inline-block; max-width: 100% }
pre { background: var(--band); padding: .7rem .9rem; border-radius: 6px; margin: .6rem 0;
  white-space: pre-wrap }
.note { border-left: 4px solid var(--red); padding: .3rem .8rem; background: var(--band) }
.side { display: grid; gap: 1.2rem 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
.side > * { min-width: 0 }
figure { margin: 0; max-width: 36rem }
svg { display: block; width: 100%; height: auto }
img { image-rendering: pixelated; background: #fff }
.scrolls { overflow-x: auto }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap }
th { font-weight: 600 }
th:first-child, td:first-child, .names td:nth-child(2), .names th:nth-child(2) {
  text-align: left; white-space: normal }
th:first-child, td:first-child { padding-left: 0 }
.facts td { text-align: left; white-space: normal }
.facts td:first-child { color: var(--soft) }
.facts td + td { overflow-wrap: anywhere }
.matrix { font-size: .75rem }
.matrix th, .matrix tbody td { padding: .2rem .1rem; min-width: 1.7rem; text-align: center;
  border: 1px solid var(--paper) }
.matrix th { font-weight: 400; vertical-align: bottom; padding-left: 0 }
.matrix tbody th { text-align: right; padding-right: .4rem }
.matrix th span { display: inline-block; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; max-width: 7rem; max-height: 7rem; vertical-align: bottom }
.matrix thead span { writing-mode: vertical-rl; transform: rotate(180deg) }
.pictures { display: grid; gap: 1rem .7rem;
  grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr)) }
.pictures img { width: 6rem; height: 6rem; object-fit: contain; border-radius: 3px }
.pictures figcaption { line-height: 1.3; font-size: .8rem; overflow-wrap: anywhere }
.predicted { color: var(--red) }
.grid { width: 100%; height: auto }
@media (max-width: 30rem) {
  th, td { padding: .2rem .3rem }
  table { font-size: .8125rem }
  .matrix tbody th span { max-width: 5rem }
}
"""


class Page(NamedTuple):
    """What a page is made of; None, or nothing, for what there is not."""

    title: str
    lead: str
    left_out: list[str]
    facts: list[tuple[str, str]]
    config: dict[str, Any]
    history: Sequence[Mapping[str, Any]]
    losses: np.ndarray | None
    best_epoch: int | None
    trained: Trained | None
    weights: np.ndarray | None
    split: data.Split | None
    split_name: str
    full_scale: float
    measured: dict[str, Any]


def html(page: Page) -> str:
    """The page as a document."""
    notes = [tag("p", f"Left out: {said}", class_="note") for said in page.left_out]
    top = [tag("h1", page.title), tag("p", page.lead, class_="lead"), notes]
    facts = tag("div", _facts(page.facts)) if page.facts else None
    result = tag("div", facts, _origin(page.config), class_="side")
    return document(page.title, _STYLE, top, result, *_sections(page))


def _sections(page: Page) -> Iterator[Element]:
    measured, trained = page.measured, page.trained
    if page.history:
        svgs = figures.curves(page.history, page.losses, page.best_epoch)
        drawn = [tag("figure", Element(svg)) for svg in svgs]
        yield _section("Learning", tag("div", drawn, class_="side"))
    if "confusion" in measured:
        yield _section(f"Confusion matrix, {page.split_name} split", _confusion(measured))
    elif "classes" in measured:
        yield _section(f"Labels, {page.split_name} split", _classes(measured))
    if "targets" in measured and trained is not None and page.split is not None:
        yield _section(f"Residuals, {page.split_name} split", _residuals(page, trained))
    if measured.get("mistakes") and page.split is not None:
        title = "Largest residuals" if "targets" in measured else "Worst mistakes"
        yield _section(title, _mistakes(page, page.split))
    inside = []
    if page.weights is not None and trained is not None:
        inside.append(_section("First-layer weights", _weights(page.weights, trained)))
    if measured.get("layers"):
        inside.append(_section("Activations and gradients", _layers(measured)))
    if inside:
        yield tag("div", inside, class_="side")


def _section(title: str, *inside: Any) -> Element:
    return tag("section", tag("h2", title), *inside)


def _origin(config: dict[str, Any]) -> Element | None:
    """The command, and with what it ran."""
    if not config:
        return None
    last = (config.get("resumed") or [config])[-1]
    device, command = last.get("device") or {}, str(config.get("command", ""))
    versions = last.get("versions") or {}
    on = f"{device.get('count', '')} × {device.get('kind', '')}, {device.get('cpu', '')}"
    rows = [
        ("begun", config.get("started")),
        ("last resumed", last.get("started") if last is not config else None),
        ("device", f"{device.get('platform', '')}: {on}" if device else None),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("SHA-256 of the data", config.get("data_sha256")),
    ]
    return tag(
        "div",
        # A word at a time, which does not break at its hyphens.
        tag("pre", tag("code", [[tag("span", word), " "] for word in command.split(" ")])),
        tag("details", tag("summary", "device and versions"), _facts(rows)),
    )


def _facts(rows: Sequence[tuple[str, Any]]) -> Element:
    return table(None, [row for row in rows if row[1]], class_="facts")


# --- Answers


def _confusion(measured: dict[str, Any]) -> list[Element | None]:
    counts = np.array(measured["confusion"])
    names = [str(row["name"]) for row in measured["classes"]]
    said = None
    if measured["undecided"]:
        words = f"{measured['undecided']:,} examples have outputs that are not finite."
        said = tag("p", words, class_="note")
    matrix = _matrix(counts, names) if len(names) <= _CELLS else _large_matrix(counts)
    left = tag("div", said, matrix, _pairs(counts, names))
    return [tag("div", left, tag("div", _classes(measured)), class_="side")]


def _matrix(counts: np.ndarray, names: list[str]) -> list[Element]:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    heads = [tag("th", tag("span", name), title=name) for name in names]
    top = tag("thead", tag("tr", tag("th"), heads))
    rows = [
        tag("tr", head, [_cell(counts[i, j], shares[i, j], i == j) for j in range(len(names))])
        for i, head in enumerate(heads)
    ]
    matrix = tag("table", top, tag("tbody", rows), class_="matrix")
    words = "Rows: true class; columns: predicted class. Coloured by the share of the row."
    return [tag("div", matrix, class_="scrolls"), tag("p", words, class_="soft")]


def _large_matrix(counts: np.ndarray) -> Element:
    image = tag("img", src=figures.table(counts), class_="grid", alt="the confusion matrix")
    words = (
        "Rows: true class; columns: predicted class, in order. Dark is a large share of the row."
    )
    return tag("figure", image, tag("figcaption", words))


def _cell(count: int, share: float, right: bool) -> Element:
    """A count; the stronger its colour, the larger the share, of mistakes sooner."""
    colour, strength = ("tint", 0.65 * share) if right else ("wrong", min(0.8, 3.0 * share))
    style = f"background: rgba(var(--{colour}), {strength:.2f})" if count else None
    return tag("td", count or tag("span", "·", class_="soft"), style=style)


def _pairs(counts: np.ndarray, names: list[str]) -> Element | None:
    """The most frequent confusions."""
    wrong = counts - np.diag(counts.diagonal())
    most = _PAIRS if len(names) > _CELLS else 10
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows = []
    for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[i, j]:
            share = _percent(wrong[i, j] / counts[i].sum())
            rows.append((names[i], names[j], int(wrong[i, j]), share))
    head = ("true", "predicted", "examples", "of class")
    return table(head, rows, class_="names") if rows else None


def _classes(measured: dict[str, Any]) -> Element:
    keys = "precision", "recall", "f1"
    rows = [
        (row["name"], *(_percent(row[key]) for key in keys), f"{row['support']:,}")
        for row in measured["classes"]
    ]
    whole = table(("class", "precision", "recall", "F1", "support"), rows)
    if len(rows) <= _CELLS:
        return whole
    words = f"precision, recall and F1 of the {len(rows):,} classes"
    return tag("details", tag("summary", words), whole)


def _mistakes(page: Page, split: data.Split) -> list[Element]:
    measured = page.measured
    mistakes = measured["mistakes"]
    examples = data.opened(split.images)
    if not isinstance(examples, data.Streamed):
        examples = np.asarray(examples)
    regression = "targets" in measured
    if regression:
        words = "The examples with the largest residuals."
    else:
        words = f"{len(mistakes)} of {measured['wrong']:,} wrong predictions, highest loss first."
    if examples.ndim == 4 and examples.shape[-1] in (1, 3):
        told = tag("div", [_picture(one, examples, page) for one in mistakes], class_="pictures")
        return [tag("p", words), told]
    count = math.prod(examples.shape[1:])
    shown = min(count, _VALUES)
    if shown < count:
        words += f" Of the {count:,} numbers of an example, the first {shown}."
    last = "residual" if regression else "probability"
    names = _features(page.trained, count)[:shown]
    words += f" Rows are those of the {page.split_name} split, counted from 0."
    head = ("row", "true", "predicted", last, *names)
    rows = [
        (one["row"], *_answer(one), *map(_number, examples[one["row"]].ravel()[:shown].tolist()))
        for one in mistakes
    ]
    return [tag("p", words), table(head, rows)]


def _features(trained: Trained | None, count: int) -> list[str]:
    """The names of a table's features; numbers, where what was read does not say."""
    names: list[str] = []
    reading = getattr(trained, "reading", None) or {}
    for column in reading.get("columns") or ():
        values = column.get("values")
        name = str(column.get("name"))
        names += [name] if values is None else [f"{name}: {value}" for value in values]
    return names if len(names) == count else [f"x{k}" for k in range(count)]


def _picture(one: dict[str, Any], examples: Any, page: Page) -> Element:
    image = figures.picture(examples[one["row"]], page.full_scale)
    true, predicted, last = _answer(one)
    words = f"{last} off" if "residual" in one else last
    caption = [tag("span", predicted, class_="predicted"), f", {words}", tag("br"), f"true: {true}"]
    alt = f"row {one['row']}: {true}, predicted {predicted}"
    title = f"row {one['row']}" + (f", loss {one['loss']:.3g}" if one.get("loss") else "")
    return tag("figure", tag("img", src=image, alt=alt, title=title), tag("figcaption", caption))


def _answer(one: dict[str, Any]) -> tuple[str, str, str]:
    """What is true, what is predicted, and how surely, or how far off."""
    if "residual" not in one:
        return str(one["true"]), str(one["predicted"]), _percent(one["probability"])
    true, predicted, residual = (
        ", ".join(map(_number, one[key])) for key in ("true", "predicted", "residual")
    )
    return true, predicted, residual


def _residuals(page: Page, trained: Trained) -> list[Element]:
    assert page.split is not None
    outputs = trained.outputs(page.split.images)
    labels = np.reshape(page.split.labels, outputs.shape)
    targets = page.measured["targets"]
    rows = [(row["name"], _number(row["r2"]), _number(row["mae"])) for row in targets]
    drawn = []
    for k, row in enumerate(targets[:_TARGETS]):
        both = np.stack([labels[:, k], outputs[:, k]])
        both = both[:, np.isfinite(both).all(0)]
        if both.size:
            svgs = figures.residuals(both[0], both[1], str(row["name"]))
            drawn += [tag("figure", Element(svg)) for svg in svgs]
    whole = table(("target", "R²", "mean absolute error"), rows)
    return [whole, tag("div", drawn, class_="side")]


# --- The net


def _weights(w: np.ndarray, trained: Trained) -> Element:
    image, units, width = figures.weights(w, trained.input_shape)
    what = "filters" if w.ndim == 4 else "units"
    words = (
        f"All {units} {what}"
        if units == w.shape[-1]
        else f"The first {units} of {w.shape[-1]:,} {what}"
    )
    words += " of the first layer, each from its least weight (dark) to its largest."
    picture = tag(
        "img", src=image, class_="grid", alt=words, style=f"max-width: {min(26, width)}rem"
    )
    return tag("figure", picture, tag("figcaption", words))


def _layers(measured: dict[str, Any]) -> list[Element]:
    layers = measured["layers"]
    rows = [
        (
            row["name"],
            *(_size(row[key]) for key in ("params", "output", "output_grad", "params_grad")),
        )
        for row in layers
    ]
    head = ("layer", "parameters", "output", "its gradient", "parameters' gradient")
    words = (
        f"Of the first {min(measured['rows'], measured['batch'])} rows of the split, as a step of "
        "training computes them: the loss is the mean over these rows, without a penalty."
    )
    return [
        tag("p", words),
        tag("figure", Element(figures.sizes(layers))),
        tag(
            "details",
            tag("summary", "root mean squares, the largest, and how many are not finite"),
            table(head, rows),
        ),
    ]


def _size(sizes: dict[str, Any] | None) -> str:
    if sizes is None:
        return "–"
    bad = f", {sizes['nonfinite']:,} not finite" if sizes["nonfinite"] else ""
    return f"{sizes['rms']:.2e}, {sizes['max_abs']:.2e}{bad}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float) and 1e4 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
