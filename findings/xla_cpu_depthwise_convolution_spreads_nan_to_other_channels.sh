#!/usr/bin/env bash
# jax 0.10.2 on a CPU, in float64: a convolution with one group a channel (feature_group_count = channels,
# one output each or two) gives NaN in every channel where one of them holds a NaN, though no output depends
# on another channel: it goes as a dense kernel whose other entries are zeros, and 0 times NaN is NaN. In
# float32 each channel stays by itself.
#
# Seen: which of the output's channels hold a NaN, of an image with one NaN in its second channel
#   float32, 1 output a group: [False, True]
#   float64, 1 output a group: [True, True]
#   float64, 2 outputs a group: [True, True, True, True]
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
"$(command -v python3.11 || command -v python3)" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2" "jaxlib==0.10.2"
found="$(JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PYTHON'
import jax, jax.numpy as jnp
from jax import lax

jax.config.update("jax_enable_x64", True)
for dtype, outputs in ((jnp.float32, 1), (jnp.float64, 1), (jnp.float64, 2)):
    x = jnp.ones((1, 4, 4, 2), dtype).at[0, 1, 1, 1].set(jnp.nan)
    w = jnp.ones((2, 2, 1, 2 * outputs), dtype)
    y = lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )
    print(jnp.isnan(y).any((0, 1, 2)).tolist(), end=" ")
PYTHON
)"
echo "$found"
expected="[False, True] [True, True] [True, True, True, True] "
[ "${found% }" = "${expected% }" ] || { echo "changed: expected $expected"; exit 1; }
