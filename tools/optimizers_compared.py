"""The page of optimizers of the same name in optax, torch and Keras, from the tests' own pairs.

python -m tools.optimizers_compared   # docs/optimizers_compared.md; needs the extra `bench`
"""

from __future__ import annotations

import inspect
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import optax

from funcnet import checks
from tests.support import optimizer_pairs as pairs

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "optimizers_compared.md"
NAMES = {
    "SGD": ("sgd", "SGD", "SGD"),
    "Adam": ("adam", "Adam", "Adam"),
    "AdamW": ("adamw", "AdamW", "AdamW"),
    "Adamax": ("adamax", "Adamax", "Adamax"),
    "NAdam": ("nadam", "NAdam", "Nadam"),
    "RAdam": ("radam", "RAdam", None),
    "RMSprop": ("rmsprop", "RMSprop", "RMSprop"),
    "Adagrad": ("adagrad", "Adagrad", "Adagrad"),
    "Adadelta": ("adadelta", "Adadelta", "Adadelta"),
    "Lion": ("lion", None, "Lion"),
    "LAMB": ("lamb", None, "Lamb"),
}
"""What an optimizer is called in optax (and funcnet, which has optax's defaults), torch, Keras."""

HEAD = """# The same name, other numbers

Made by `python -m tools.optimizers_compared`, with {versions}.

`check_optimizer` compares any two optimizers of funcnet, optax, torch and Keras by one line, and
names the first step at which they part and why:

```python
from funcnet import checks

print(checks.check_optimizer(optax.adam(1e-3), torch.optim.Adam, params))
print(checks.check_optimizer((torch.optim.Adam, {{"eps": 1e-7}}), keras.optimizers.Adam, params))
```

It gives two verdicts. *Equal*: updates and parameters agree in float64 at every step, for gradients
of 1e-6 to 10 and then for zeros and for 1e-20 to 1e9. *Robust*: what the first does with float16,
with gradients that are not finite, with empty trees and the like; what the second fails too is
marked so. `raise_if_bad` asks for equality, and with `robust=True` for both.

Names, order and defaults of funcnet's optimizers are optax's, so that optax's column is funcnet's
too (RAdam aside, which funcnet does not have).

## Defaults

As their signatures have them; the learning rate has none in optax, Adadelta's aside.
"""
DIFFERS = """
## What differs

The first step at which they part, and why, as `check_optimizer` says it. Not in the tables: Keras's
`SGD(momentum=...)` keeps the learning rate in its velocity (`velocity="scaled"` here), those of
torch and optax do not, which makes a difference once the rate changes.
"""


def main() -> None:
    with jax.numpy_dtype_promotion("standard"):
        PAGE.write_text("\n".join([HEAD.format(versions=versions()), *defaults(), *measured(), ""]))
    print(f"wrote {PAGE.name}")


def versions() -> str:
    import keras
    import torch

    known = {"optax": optax.__version__, "torch": torch.__version__.split("+")[0]}
    return ", ".join(f"{name} {version}" for name, version in known.items()) + (
        f" and Keras {keras.__version__} (on {keras.backend.backend().upper()})"
    )


def defaults() -> Iterator[str]:
    yield "| | optax, funcnet | torch | Keras |\n|---|---|---|---|"
    rooms = optax, pairs.module("torch"), pairs.module("keras")
    for title, names in NAMES.items():
        cells = (
            "—" if name is None else f"{numbers(getattr(room, name))}"
            for room, name in zip(rooms, names, strict=True)
        )
        yield f"| {title} | {' | '.join(cells)} |"


def numbers(make: Any) -> str:
    """The defaults of a signature that are numbers."""
    found = {
        p.name: p.default
        for p in inspect.signature(make).parameters.values()
        if isinstance(p.default, (float, tuple)) and not p.name.startswith("ema_")
    }
    return f"`{', '.join(f'{k}={v}' for k, v in found.items())}`" if found else "none"


def measured() -> Iterator[str]:
    yield DIFFERS.rstrip()
    for title, rows in pairs.DIFFERENT.items():
        yield f"\n### {title}\n\n| ours | theirs | step | what differs |\n|---|---|---|---|"
        for ours, theirs, _ in rows:
            report = compared(ours, theirs)
            assert report.equal is False, report
            cause = report.cause.replace("|", "\\|")
            yield f"| `{ours}` | `{theirs}` | {report.first_divergence} | {cause} |"
    yield "\n## What is equal, once the options are\n\n| ours | theirs |\n|---|---|"
    for ours, theirs in pairs.EQUAL:
        compared(ours, theirs).raise_if_bad()
        yield f"| `{ours}` | `{theirs}` |"


def compared(ours: pairs.Side, theirs: pairs.Side) -> checks.OptimizerReport:
    options = {"steps": 40, "checks": ["trajectory", "extremes"]}
    return checks.check_optimizer(ours.make(), theirs.make(), pairs.PARAMS, **options)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    main()
