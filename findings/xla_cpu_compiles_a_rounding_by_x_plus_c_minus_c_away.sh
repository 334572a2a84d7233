#!/usr/bin/env bash
# jax 0.10.2 (0.12.0.1 rounds), numpy 2.4.6: (x + c) - c with a large constant c, the usual way to round a
# float32 to a multiple of c's last place, is x itself when XLA compiles it for a CPU: the two constants
# are added first, to 0. Operation by operation, and in NumPy, it rounds. Code that emulates formats of
# few bits this way rounds nothing under jit.
#
# Seen:
#   NumPy: [0.125 0.25 1.75] jax: [0.125 0.25 1.75] jax.jit: [0.1 0.3 1.7]
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
"$(command -v python3.11 || command -v python3)" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
found="$(JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PYTHON'
import jax, jax.numpy as jnp, numpy as np

c = np.float32(2**20)
x = np.float32([0.1, 0.3, 1.7])


def rounded(x):
    return (x + c) - c


def shown(x):
    return "[" + " ".join(f"{v:g}" for v in np.asarray(x)) + "]"


print("NumPy:", shown(rounded(x)), "jax:", shown(rounded(jnp.asarray(x))), end=" ")
print("jax.jit:", shown(jax.jit(rounded)(x)))
PYTHON
)"
echo "$found"
expected="NumPy: [0.125 0.25 1.75] jax: [0.125 0.25 1.75] jax.jit: [0.1 0.3 1.7]"
[ "$found" = "$expected" ] || { echo "changed: expected $expected"; exit 1; }
