#!/usr/bin/env bash
# jax 0.10.2 (and 0.12.0.1), numpy 2.4.6: NumPy compares an array with None entry by entry and gives an
# array of booleans. JAX's arrays, and what is traced, give one Python bool. Code such as
# (labels != ignored).astype(float), where None stands for nothing to ignore, therefore works on NumPy's
# arrays, jitted or not, as long as they are constants, and ends in AttributeError on JAX's.
#
# Seen:
#   numpy [ True  True] jax True traced True
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
"$(command -v python3.11 || command -v python3)" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
found="$(JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PYTHON'
import jax, jax.numpy as jnp, numpy as np

labels, seen = np.array([0, 1]), []
jax.eval_shape(lambda x: seen.append(x != None), jnp.asarray(labels))
print("numpy", labels != None, "jax", jnp.asarray(labels) != None, "traced", *seen)
PYTHON
)"
echo "$found"
expected="numpy [ True  True] jax True traced True"
[ "$found" = "$expected" ] || { echo "changed: expected $expected"; exit 1; }
