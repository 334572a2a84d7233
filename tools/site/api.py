"""A page a room: what the room is, a table of its names, the main ones first, then each."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
from pathlib import Path
from types import ModuleType

import funcnet
from funcnet.catalogue import ROWS

ROOT = Path(__file__).parent.parent.parent
ROOMS = sorted(set(funcnet.__all__) - {"__version__", "load", "save"})
MAIN = {
    "bench": ["compare", "rules", "steps", "runs"],
    "catalogue": ["ROWS", "Row"],
    "checkpoint": ["save_trained", "load_trained", "Checkpoints"],
    "checks": [
        *("assert_rule", "check_rule", "check_optimizer", "check_step", "check_resume"),
        *("check_sharding", "numerical_vjp", "grad_check_sparse"),
    ],
    "data": ["load", "read", "fit_preprocessing", "preprocess"],
    "discovery": ["load", "find", "samples_of", "Judge"],
    "export": ["to_onnx"],
    "kernels": ["as_cotangent", "use_native", "native_status", "matmul", "conv"],
    "layers": ["affine", "conv2d", "relu", "batch_norm", "max_pool", "dropout"],
    "losses": ["softmax_cross_entropy"],
    "nets": ["fully_connected_net", "serial", "residual", "Net", "summary"],
    "optimizers": ["sgd", "momentum", "adam", "adamw"],
    "plain": ["affine", "conv2d", "relu", "batch_norm"],
    "plots": ["curves", "compare", "sweep"],
    "report": ["write"],
    "sklearn": ["NetClassifier", "NetRegressor"],
    "sweep": ["run", "grid"],
    "train": ["fit", "make_step", "init_state", "evaluate", "TrainState", "Run", "Trained"],
}


def order(room: str) -> list[str]:
    """The public names of a room: the main ones, other functions, then classes and constants."""
    module = getattr(funcnet, room)

    def rank(name: str) -> tuple[int, str]:
        if name in MAIN[room]:
            return MAIN[room].index(name) - len(MAIN[room]), name
        return (0 if name[0].islower() else 1 if not name.isupper() else 2), name.lower()

    return sorted(module.__all__, key=rank)


def page(room: str) -> str:
    """The room's page as Markdown."""
    own = ROOT / "docs" / "api" / f"{room}.md"
    before = own.read_text().partition("\n")[2] if own.exists() else ""
    before = re.sub(r"^::: funcnet\.\w+$", "", before, flags=re.MULTILINE).strip()
    module = getattr(funcnet, room)
    parts = [
        f"# {room}",
        f"::: funcnet.{room}\n    options: {{ members: false, show_root_heading: false }}",
        before,
    ]
    parts += [table(room, module)]
    for name in order(room):
        parts += [f"::: funcnet.{room}.{name}", *_rule(room, name)]
    if room == "train":
        parts += ["## Metrics", "::: funcnet.train.metrics"]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(room: str, module: ModuleType) -> str:
    """Name and first sentence of each public name."""
    proven = " certificate |" if room in ("layers", "losses") else ""
    lines = [f"| name | what it is |{proven}", "|---|---|" + ("---|" if proven else "")]
    for name in order(room):
        cells = [f"[`{name}`](#funcnet.{room}.{name})", first_sentence(module, name)]
        if proven:
            cells.append("right" if name in certificate() else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def first_sentence(module: ModuleType, name: str) -> str:
    text = _comments(module).get(name) or getattr(module, name).__doc__ or ""
    sentence = re.split(r"(?<=[.!?:])\s", inspect.cleandoc(text), maxsplit=1)[0]
    return " ".join(sentence.split()).replace("|", "\\|").rstrip(":")


@functools.cache
def _comments(module: ModuleType) -> dict[str, str]:
    """The strings under the constants of a room's files, by name."""
    home = Path(module.__file__ or "")
    found = {}
    for file in sorted(home.parent.glob("*.py")) if home.name == "__init__.py" else [home]:
        for assigned, after in itertools.pairwise(ast.parse(file.read_text()).body):
            names = getattr(assigned, "targets", [getattr(assigned, "target", None)])
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found |= {getattr(name, "id", ""): str(after.value.value) for name in names}
    return found


@functools.cache
def certificate() -> dict[str, dict[str, str]]:
    """The rows of docs/certificate.md by rule."""
    lines = (ROOT / "docs" / "certificate.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    head = [*rows[0][:-1], "verdict"]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows[2:] if len(row) == len(head)}


def _rule(room: str, name: str) -> list[str]:
    if room not in ("layers", "losses") or name not in ROWS:
        return []
    proof = certificate()[name]
    kept, autodiff = proof["bytes"], proof["plain's"]
    line = (
        f"[Certificate](../certificate.md): **{proof['verdict']}**; worst error in float64 "
        f"{proof['f64']} eps, float32 {proof['f32']} eps; second order {proof['2nd']}, "
        f"transformations {proof['transf']}, meshes {proof['meshes']}; "
        f"keeps {kept} bytes on its sample, autodiff {autodiff}."
    )
    code = f"```python\n{source(name)}\n```"
    indented = "\n".join("    " + text if text else "" for text in code.split("\n"))
    return [line, f'??? quote "The rule, as it is written"\n\n{indented}']


def source(name: str) -> str:
    """The undecorated body, the forward and the backward pass of a rule."""
    rule = ROWS[name].function
    private = getattr(inspect.getmodule(rule.fun), f"_{name}", None)
    parts = [part for part in (private, rule.fwd, rule.bwd) if part is not None]
    return "\n\n\n".join(inspect.getsource(part).rstrip() for part in parts)


def rules() -> str:
    """Every rule of the catalogue: what it says on the left, how it is written on the right."""
    return "\n\n".join(
        f"## {name}\n\n"
        f'<div class="rule" markdown>\n<div markdown>\n\n'
        f"{inspect.cleandoc(row.function.__doc__).split(chr(10) + 'Args:')[0]}\n\n</div>\n"
        f"<div markdown>\n\n```python\n{source(name)}\n```\n\n</div>\n</div>"
        for name, row in ROWS.items()
    )
