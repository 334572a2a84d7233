"""The README's first picture: a rule, its proof, its speed, from what lies in the repository.

python -m tools.hero     # docs/images/hero.png, of docs/certificate.md and docs/scorecard.json
"""

from __future__ import annotations

import inspect
from pathlib import Path

from matplotlib.figure import Figure

from funcnet import bench, plots
from funcnet._matplotlib import BLUE, RED
from funcnet.catalogue import ROWS

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "hero.png"


def errors() -> list[tuple[str, float, float]]:
    """The worst relative error of each rule in float64, and the smallest that would be noticed."""
    lines = (ROOT / "docs" / "certificate.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in cells if len(row) > 10 and row[0] in ROWS]
    return [(row[0], max(float(row[1]) * 2.0**-52, 1e-18), float(row[10])) for row in rows]


def speeds(count: int = 14) -> list[tuple[str, float]]:
    """Our time in units of autodiff's, the case of each rule where it counts most."""
    report = bench.Report.load(ROOT / "docs" / "scorecard.json")
    found: dict[str, tuple[str, float]] = {}
    for result in report.section("rules"):
        ratio = result.ratio("autodiff")
        if ratio is not None and ratio < found.get(result.name, ("", 9.0))[1]:
            found[result.name] = (f"{result.name} {result.case}", ratio)
    return sorted(found.values(), key=lambda item: item[1])[:count]


@plots.style()
def draw() -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    rule, proof, speed = figure.subplots(1, 3, width_ratios=(1.25, 0.85, 0.6))
    row = ROWS["tanh"].function
    code = "\n\n".join(inspect.getsource(part).rstrip() for part in (row.fwd, row.bwd))
    code = code.replace("(1 - wide(y)) * (1 +", "(1 - wide(y))\n             * (1 +")
    rule.axis("off")
    rule.set_title("a rule")
    rule.text(0, 0.93, r"$y = \tanh x$", fontsize=15, va="top")
    rule.text(0, 0.80, r"$dx = (1 - y)(1 + y)\,dy$", fontsize=15, va="top")
    rule.text(0, 0.62, code, family="monospace", fontsize=9, va="top", linespacing=1.5)
    found = errors()
    places = range(len(found))
    proof.plot([error for _, error, _ in found], places, "o", color=BLUE, ms=4, label="its error")
    proof.plot([sees for *_, sees in found], places, "|", color=RED, ms=8, label="would be seen")
    proof.set(xscale="log", xlim=(5e-19, 1e-12), yticks=[], xlabel="relative error in float64")
    proof.set_xticks([1e-18, 1e-16, 1e-14, 1e-12], ["0", "1e-16", "1e-14", "1e-12"])
    proof.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=10)
    proof.set_title(f"its proof: all {len(found)} rules")
    bars = speeds()
    places = range(len(bars))
    speed.barh(places, [ratio for _, ratio in bars], color=BLUE)
    speed.axvline(1, color="black", lw=1)
    speed.set_yticks(places, [name.split(" ")[0] for name, _ in bars], fontsize=8.5)
    speed.set(xlim=(0, 1.1), xlabel="time, autodiff = 1")
    speed.invert_yaxis()
    speed.set_title("its speed")
    return figure


if __name__ == "__main__":
    draw().savefig(PICTURE, dpi=120)
