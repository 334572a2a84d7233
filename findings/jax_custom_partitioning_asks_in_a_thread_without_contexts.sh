#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, on a CPU: the partition function of a custom_partitioning, and the program of
# a part that it returns, are asked for in a thread of XLA's own, which knows of no context of the
# caller's. Under `with jax.enable_x64(True)` what it says of dtypes is canonicalised to 32 bits: here a
# product that asks for float64 is traced as float32, and compiling raises. With the process-wide setting
# (JAX_ENABLE_X64) all is well. So for jax.default_matmul_precision, and every other context.
#
# Seen:
#   caller: True part: False ValueError: Mismatch in result shapes.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
"$(command -v python3.11 || command -v python3)" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
found="$(JAX_PLATFORMS=cpu "$folder/env/bin/python" -W ignore - <<'PYTHON'
import jax, jax.numpy as jnp, numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

jax.config.update("jax_num_cpu_devices", 2)
mesh = Mesh(np.array(jax.devices()), ("d",))


def product(x):
    return jnp.matmul(x, x.T, preferred_element_type=jnp.float64)[:, :1]


@custom_partitioning
def spread(x):
    return product(x)


def partition(mesh, arguments, result):
    print("part:", jax.config.jax_enable_x64, end=" ")
    return mesh, product, result.sharding, (arguments[0].sharding,)


spread.def_partition(partition, sharding_rule="n d -> n e")
with jax.enable_x64(True):
    x = jax.device_put(np.ones((4, 3)), NamedSharding(mesh, P("d")))
    print("caller:", jax.config.jax_enable_x64, end=" ")
    try:
        print(jax.jit(spread)(x).dtype)
    except Exception as error:
        print(next(line for line in str(error).splitlines() if "Error" in line).split(" [")[0])
PYTHON
)"
echo "$found"
expected="caller: True part: False ValueError: Mismatch in result shapes."
[ "$found" = "$expected" ] || { echo "changed: expected $expected"; exit 1; }
