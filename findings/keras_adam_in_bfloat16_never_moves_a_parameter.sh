#!/usr/bin/env bash
# keras 3.15.1 (jax 0.10.2, numpy 2.4.6): Adam and AdamW cast beta_2 to the variable's dtype before they
# take its power for the bias correction. In bfloat16 0.999 is 1, so lr * sqrt(1 - 1) / (1 - beta_1^t) is
# 0: a bfloat16 variable never moves, at any learning rate, and nothing warns. Nadam divides by 1 - 1 and
# gives nan at the first step. In float32 all of them move; so does SGD in bfloat16. (Adam of torch
# 2.13.0 and of optax 0.2.8, whose betas stay Python floats, moves a bfloat16 parameter as it should.)
#
# Seen, of a variable of 1 after ten steps at a rate of 0.125 with gradients of 1, float32 and bfloat16:
#   Adam -0.25 1.0 AdamW -0.252 1.0 Nadam 0.0282 nan SGD -0.25 -0.25
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
"$(command -v python3.11 || command -v python3)" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "keras==3.15.1" "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
found="$(JAX_PLATFORMS=cpu KERAS_BACKEND=jax "$folder/env/bin/python" - <<'PYTHON'
import keras

words = []
for name in ("Adam", "AdamW", "Nadam", "SGD"):
    words.append(name)
    for dtype in ("float32", "bfloat16"):
        optimizer = getattr(keras.optimizers, name)(0.125)
        variable = keras.Variable([1.0], dtype=dtype)
        for _ in range(10):
            optimizer.apply([keras.ops.ones((1,), dtype=dtype)], [variable])
        words.append(str(float(f"{float(variable.value[0]):.3g}")))
print(*words)
PYTHON
)"
echo "$found"
expected="Adam -0.25 1.0 AdamW -0.252 1.0 Nadam 0.0282 nan SGD -0.25 -0.25"
[ "$found" = "$expected" ] || { echo "changed: expected $expected"; exit 1; }
