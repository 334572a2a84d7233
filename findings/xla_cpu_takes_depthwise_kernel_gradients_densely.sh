#!/usr/bin/env bash
# jax 0.10.2 (jaxlib 0.10.2), CPU: the kernel gradient of a depthwise convolution is compiled to a dense
# one. A convolution with feature_group_count = cin = 64 needs 9.4 million FLOPs forward (8x32x32x64x9x2)
# and as many for its kernel's gradient; XLA's CPU compiler expands the gradient's batch_group_count to
# a convolution of all 64 channels with all 64, of which it keeps the diagonal: 64 times the work.
# Seen on 2026-11-29:
#   forward: 9.0e+06 FLOPs, kernel gradient: 5.8e+08 FLOPs, 64 times
# Exits non-zero when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2"
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

x = jnp.ones((8, 32, 32, 64), jnp.float32)
w = jnp.ones((3, 3, 1, 64), jnp.float32)


def conv(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=64
    )


def kernel_gradient(x, dy):
    return jax.vjp(lambda w: conv(x, w), w)[1](dy)[0]


def flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


forward, gradient = flops(conv, x, w), flops(kernel_gradient, x, x)
print(f"forward: {forward:.1e} FLOPs, kernel gradient: {gradient:.1e} FLOPs, "
      f"{gradient / forward:.0f} times")
assert gradient > 32 * forward, "the gradient is no longer dense"
PY
