#!/usr/bin/env bash
# jax 0.10.2 and 0.12.0.1: a custom_vjp rule of two outputs, under vmap over an argument that only
# the first output depends on. The second is then shared by the mapped examples. Its cotangent
# belongs to all of them together, once; jax 0.10 hands the whole of it to each example, so that the
# gradient of an unmapped argument comes out n times too large, without a word. jax 0.12 refuses to
# differentiate such a rule, unless it was defined with generic_batching=True.
#
# Seen with n = 3 and a right gradient of 1:
#   jax 0.10.2:   3.0
#   jax 0.12.0.1: ValueError: under vmap, the custom_vjp function scale_and_keep has a primal output
#                 that is shared across the batch ...
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
cat >"$folder/shared.py" <<'PYTHON'
import jax, jax.numpy as jnp


@jax.custom_vjp
def scale_and_keep(gain, x):
    return gain * x, x


scale_and_keep.defvjp(
    lambda gain, x: ((gain * x, x), (gain, x)),
    lambda kept, dy: (dy[0] * kept[1], dy[0] * kept[0] + dy[1]),
)


def loss(x):  # the second output alone: its gradient is 1, however many gains there are
    _, kept = jax.vmap(scale_and_keep, in_axes=(0, None), out_axes=(0, None))(jnp.ones(3), x)
    return kept


try:
    print(jax.__version__, jax.grad(loss)(2.0))
except ValueError as error:
    print(jax.__version__, "ValueError", str(error)[:96])
PYTHON

run() { # a Python, a version of jax, what is expected
  "$1" -m venv "$folder/$2"
  "$folder/$2/bin/python" -m pip install --quiet --disable-pip-version-check "jax==$2" "jaxlib==$2"
  found="$(JAX_PLATFORMS=cpu "$folder/$2/bin/python" "$folder/shared.py")"
  echo "$found"
  [[ "$found" == $3 ]] || { echo "changed: expected $3"; exit 1; }
}

newest=""
for candidate in python3.12 python3.13 "$(pyenv root 2>/dev/null || true)"/versions/3.1[23].*/bin/python; do
  "$candidate" -c "" 2>/dev/null && newest="$candidate" && break
done
run "$(command -v python3.11 || command -v python3)" 0.10.2 "0.10.2 3.0"
if [ -n "$newest" ]; then
  run "$newest" 0.12.0.1 \
    "0.12.0.1 ValueError under vmap, the custom_vjp function scale_and_keep has a primal output*"
else
  echo "no Python 3.12 or later at hand: jax 0.12 was not tried"
fi
