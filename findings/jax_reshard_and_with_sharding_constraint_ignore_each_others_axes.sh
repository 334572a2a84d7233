#!/usr/bin/env bash
# jax 0.10.2: how an array lies on a mesh is changed by reshard where the mesh's axes are explicit
# and by with_sharding_constraint where they are automatic. Each says nothing where the axes are of
# the other kind, and the array stays cut: code written for one kind of mesh gathers nothing on the
# other, without an error. jax 0.12.0.1 does the same. Seen, of an array cut over "d" that is asked
# to be whole on every device:
#   Auto axes: reshard leaves it cut, with_sharding_constraint makes it whole
#   Explicit axes: reshard makes it whole, with_sharding_constraint leaves it cut
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet jax==0.10.2
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

seen = []
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,))
    x = jax.device_put(jnp.ones((4, 3)), NamedSharding(mesh, PartitionSpec("d")))
    whole = NamedSharding(mesh, PartitionSpec())
    for change in (jax.sharding.reshard, jax.lax.with_sharding_constraint):
        y = jax.jit(lambda x: change(x, whole) * 2.0)(x)
        seen.append("whole" if y.sharding.is_fully_replicated else "cut")
        print(f"{kind} axes, {change.__name__}: {seen[-1]}")
assert seen == ["cut", "whole", "whole", "cut"], "the behaviour has changed"
PYTHON
