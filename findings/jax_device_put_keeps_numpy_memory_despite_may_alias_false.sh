#!/usr/bin/env bash
# jax 0.10.2 (and 0.12.0.1), numpy 2.4.6: jax.device_put(x, may_alias=False), of which the documentation
# says that x will be copied, takes a NumPy array on a CPU as it lies, where it begins at a multiple of
# 64 bytes: a later write to x changes the JAX array. Whether an array begins there is chance, so the
# same program copies in one run and not in another. jnp.array(x) and jnp.asarray(x, copy=True) copy.
#
# Seen, of an array that begins at a multiple of 64 bytes, after x += 1:
#   device_put may_alias=False: [1. 1. 1.] jnp.array: [0. 0. 0.]
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
"$(command -v python3.11 || command -v python3)" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
found="$(JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PYTHON'
import jax, jax.numpy as jnp, numpy as np

raw = np.zeros(4096 + 64, np.uint8)
start = -raw.ctypes.data % 64
x = raw[start : start + 4096].view(np.float32)
put = jax.block_until_ready(jax.device_put(x, may_alias=False))
made = jax.block_until_ready(jnp.array(x))
x += 1
print("device_put may_alias=False:", np.asarray(put)[:3], "jnp.array:", np.asarray(made)[:3])
PYTHON
)"
echo "$found"
expected="device_put may_alias=False: [1. 1. 1.] jnp.array: [0. 0. 0.]"
[ "$found" = "$expected" ] || { echo "changed: expected $expected"; exit 1; }
