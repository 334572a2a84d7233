#!/usr/bin/env bash
# jax 0.10.2 (Python 3.11): under vmap, an output of a custom_vjp rule that does not depend on the
# mapped argument is shared by all examples, and its cotangent is given to the backward pass of each
# of them. The gradient of an argument that is not mapped counts it once an example, silently.
#
# f(a, x) = (a * x, 5 x) with its right rule; loss = 5 x of vmap over three a, out_axes=None for it.
# d loss / d x is 5. Plain JAX says 5.0, the rule alone says 5.0, the rule under vmap says 15.0.
# (jax 0.12.0.1 raises ValueError there and names generic_batching=True as the way out.)
#
# Output seen:
#   plain 5.0 rule 5.0 rule under vmap 15.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
cat > "$folder/shared.py" <<'PY'
import jax
import jax.numpy as jnp


def plain(a, x):
    return a * x, 5.0 * x


rule = jax.custom_vjp(plain)
rule.defvjp(
    lambda a, x: (plain(a, x), (a, x)),
    lambda kept, dy: (dy[0] * kept[1], dy[0] * kept[0] + 5.0 * dy[1]),
)
a, x = jnp.arange(3.0), jnp.float32(2.0)


def under_vmap(f):
    return lambda x: jax.vmap(lambda a: f(a, x), out_axes=(0, None))(a)[1]


found = [
    float(jax.grad(loss)(x)) for loss in (under_vmap(plain), lambda x: rule(a[0], x)[1], under_vmap(rule))
]
print("plain", found[0], "rule", found[1], "rule under vmap", found[2])
assert found == [5.0, 5.0, 15.0], found
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/shared.py"
