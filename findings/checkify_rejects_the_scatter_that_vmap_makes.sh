#!/usr/bin/env bash
# jax 0.10.2: checkify's index checks raise "IndexError: tuple index out of range" on the scatter
# that vmap makes where the indices are batched, and so on the gradient of take_along_axis, which is
# the gradient of optax's cross-entropy with integer labels, although every index is in range.
# scatter_oob counts the batching dimensions of the scatter among the dimensions of its updates.
# jax 0.12.0.1 does the same. Seen:
#   vmap of a scatter: IndexError: tuple index out of range
#   gradient of take_along_axis: IndexError: tuple index out of range
#   the same scatter with explicit indices: no error
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet jax==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.experimental import checkify

rows, index = jnp.ones((2, 3)), jnp.array([0, 2])
cases = {
    "vmap of a scatter": lambda x: jax.vmap(lambda row, i: row.at[i].set(0.0))(x, index),
    "gradient of take_along_axis": jax.grad(
        lambda x: jnp.take_along_axis(x, index[:, None], axis=1).sum()
    ),
    "the same scatter with explicit indices": lambda x: x.at[jnp.arange(2), index].set(0.0),
}
seen = {}
for name, function in cases.items():
    try:
        error, _ = checkify.checkify(function, errors=checkify.index_checks)(rows)
        seen[name] = error.get() or "no error"
    except IndexError as error:
        seen[name] = f"IndexError: {error}"
    print(f"{name}: {seen[name]}")
wanted = ["IndexError: tuple index out of range"] * 2 + ["no error"]
assert list(seen.values()) == wanted, "the behaviour has changed"
PYTHON
