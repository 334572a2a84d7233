"""A rule with its batch sharded over several devices against the plain function on one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from funcnet._reports import Check, sentence
from funcnet.checks._problem import Problem
from funcnet.checks._rule_checks import compared
from funcnet.checks._rule_inputs import batch_arguments


def sharding_checks(p: Problem, devices: int) -> tuple[list[Check], list[str]]:
    """One check for each number of devices that divides the batch, and notes."""
    chosen, size = batch_arguments(p)
    counts = [n for n in (2, 4, 8, 16, 32) if n <= devices and size % n == 0]
    if not counts:
        raise ValueError(
            f"check_sharding: the batch has {size} rows, expected a multiple of 2; give sample "
            f"arguments with {devices} rows."
        )
    notes: list[str] = []
    return [_over(p, chosen, size, n, notes) for n in counts], notes


def _over(p: Problem, chosen: Sequence[int], size: int, count: int, notes: list[str]) -> Check:
    name = f"sharding/{count}"
    mesh = Mesh(np.array(jax.devices()[:count]), ("batch",))

    def placed(leaf: Any, split: bool) -> Any:
        spec = PartitionSpec("batch") if split else PartitionSpec()
        return jax.device_put(jnp.asarray(leaf), NamedSharding(mesh, spec))

    def place(leaves: Sequence[Any], where: Sequence[int]) -> list[Any]:
        return [placed(x, p.argument[i] in chosen) for x, i in zip(leaves, where, strict=True)]

    a, row = p.smooth, p.rows.random[0]
    diff = place(a.diff, p.where_diff)
    rest = place(p.rest_in(p.dtype), p.where_rest)
    cts = [placed(ct, ct.ndim > 0 and ct.shape[0] == size) for ct in p.cotangent(row)]

    def run(diff: Any, rest: Any, cts: Any) -> Any:
        outputs, pull, _ = p.vjp(p.f, diff, rest)
        return list(outputs), pull(cts)

    try:
        compiled = jax.jit(run).lower(diff, rest, cts).compile()
        out, grads = jax.device_get(compiled(diff, rest, cts))
    except Exception as error:
        return Check(name, False, f"raised {sentence(error)}")
    if "all-gather" in (compiled.as_text() or ""):
        notes.append(f"over {count} devices the compiled program gathers an axis that is sharded")
    scale = p.units("sharding", [*a.value_scales, *a.grad_scales])
    names = [*p.out_names, *(f"gradient of {n}" for n in p.diff_names)]
    want = [*a.expected.value, *(g[row] for g in a.expected.grads)]
    return compared(
        name, names, [*out, *grads], want, scale, p.c(name), what=f"over {count} devices "
    )
