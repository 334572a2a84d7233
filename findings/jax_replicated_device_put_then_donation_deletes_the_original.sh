#!/usr/bin/env bash
# jax 0.10.2: device_put of an array to a sharding that replicates it over devices shares the buffer
# of the first device with the array it came from, with may_alias=False too. A jitted function that
# is then given the copy with donate_argnums deletes the original, of which nobody said that it was
# donated: a state that was put on a mesh for a donated train step cannot be put there again.
# jnp.copy before, or x + 0, gives buffers of its own. jax 0.12.0.1 does the same. Seen:
#   device_put: the original is deleted
#   device_put with may_alias=False: the original is deleted
#   device_put of a copy: the original is there
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet jax==0.10.2
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

replicated = NamedSharding(jax.make_mesh((2,), ("d",)), PartitionSpec())
step = jax.jit(lambda x: x + 1.0, donate_argnums=0)
seen = {}
for name, put in {
    "device_put": lambda x: jax.device_put(x, replicated),
    "device_put with may_alias=False": lambda x: jax.device_put(x, replicated, may_alias=False),
    "device_put of a copy": lambda x: jax.device_put(jnp.copy(x), replicated),
}.items():
    original = jnp.ones(4)
    jax.block_until_ready(step(put(original)))
    seen[name] = "deleted" if original.is_deleted() else "there"
    print(f"{name}: the original is {seen[name]}")
assert list(seen.values()) == ["deleted", "deleted", "there"], "the behaviour has changed"
PYTHON
