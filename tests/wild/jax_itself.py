"""Rules of jax itself."""

from __future__ import annotations

import numpy as np

from tests.wild.entries import Shelf, normal, uniform

wild = Shelf()


@wild("jax", "nn.relu", "right", "1 where x > 0 and 0 elsewhere, away from the kink")
def _():
    import jax

    return jax.nn.relu, (normal(4, 3),)


@wild("jax", "nn.softmax", "right", "the textbook Jacobian of softmax, with a mask")
def _():
    import jax

    x = normal(4, 5)
    return lambda x, where: jax.nn.softmax(x, where=where), (x, x < 1)


@wild("jax", "numpy.logaddexp", "right", "softmax weights of the two arguments")
def _():
    import jax.numpy as jnp

    return jnp.logaddexp, (normal(6), normal(6, seed=1))


@wild("jax", "numpy.logaddexp of complex numbers", "right", "the same formula, holomorphic")
def _():
    import jax.numpy as jnp

    x, y = (normal(4, seed=s) + 1j * normal(4, seed=s + 9) for s in (0, 1))
    return jnp.logaddexp, (x.astype(np.complex64), y.astype(np.complex64))


@wild("jax", "numpy.sinc", "right", "0 is a removable singularity and its rule knows the limit")
def _():
    import jax.numpy as jnp

    return jnp.sinc, (np.array([0.0, 0.3, -1.2, 2.5], np.float32),)


@wild("jax", "numpy.frexp", "right", "the mantissa's slope is 2^-e, and the exponent is an integer")
def _():
    import jax.numpy as jnp

    return jnp.frexp, (np.array([0.7, -3.1, 5.3, 100.0], np.float32),)


@wild("jax", "numpy.linalg.det", "right", "cofactors by way of an LU decomposition")
def _():
    import jax.numpy as jnp

    return jnp.linalg.det, (normal(2, 3, 3),)


@wild("jax", "numpy.linalg.slogdet of complex matrices", "right", "trace of A^-1 dA, split in two")
def _():
    import jax.numpy as jnp

    a = normal(3, 3) + 1j * normal(3, 3, seed=1)
    return lambda a: tuple(jnp.linalg.slogdet(a)), (a.astype(np.complex64),)


@wild("jax", "scipy.special.log_ndtr", "right", "the ratio of density and distribution function")
def _():
    import jax

    return jax.scipy.special.log_ndtr, (np.array([-3.0, -0.5, 0.1, 2.0], np.float32),)


@wild("jax", "scipy.special.xlogy", "right", "log y and x / y")
def _():
    import jax

    return jax.scipy.special.xlogy, (uniform(0.5, 2, 5), uniform(0.5, 3, 5, seed=1))


@wild("jax", "lax.custom_root", "right", "Newton's steps reach rounding, and the rule is implicit")
def _():
    import jax

    def root(a):
        def solve(f, x):
            return jax.lax.fori_loop(0, 30, lambda _, x: x - f(x) / (3 * x**2), x)

        return jax.lax.custom_root(lambda x: x**3 - a, a, solve, lambda g, y: y / g(1.0))

    return root, (np.float32(2.5),)


@wild(
    "jax",
    "scipy.sparse.linalg.cg",
    "imprecise",
    "conjugate gradients stop at a residual of 1e-5, in the value as in its derivative",
)
def _():
    import jax

    def solve(a, b):
        return jax.scipy.sparse.linalg.cg(lambda x: a @ (x @ a) + x, b)[0]

    return solve, (normal(12, 12) / 4, normal(12))


@wild(
    "jax",
    "experimental.ode.odeint",
    "imprecise",
    "the adjoint equation is solved backwards to a tolerance of 1.4e-8",
)
def _():
    import jax.numpy as jnp
    from jax.experimental.ode import odeint

    def solve(y, w):
        return odeint(lambda y, t, w: jnp.tanh(w @ y), y, jnp.linspace(0.0, 1.0, 3), w)

    return solve, (normal(3), normal(3, 3, seed=1))


@wild(
    "jax",
    "pallas layer_norm",
    "imprecise",
    "a kernel each way, interpreted on a CPU, whose sums are taken in float32",
)
def _():
    from jax.experimental.pallas.ops.gpu.layer_norm import layer_norm

    return (
        lambda x, w, b: layer_norm(x, w, b, interpret=True),
        (normal(2, 3, 8), uniform(0.5, 2, 8), normal(8, seed=1)),
    )


@wild(
    "jax",
    "pallas attention.mha",
    "right",
    "FlashAttention's kernels, interpreted on a CPU; differences agree as far as float32 lets them",
)
def _():
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    def attend(q, k, v):
        sizes = BlockSizes(
            block_q=4, block_k=4, block_q_dkv=4, block_kv_dkv=4, block_q_dq=4, block_kv_dq=4
        )
        return mha(q, k, v, segment_ids=None, block_sizes=sizes, interpret=True)

    return attend, tuple(normal(1, 4, 1, 4, seed=s) for s in range(3))


@wild(
    "jax",
    "nn.dot_product_attention by cuDNN",
    "cannot be judged",
    "the kernel needs a GPU, and the call raises where there is none",
)
def _():
    import jax

    q, k, v = (normal(1, 4, 2, 8, seed=s).astype(np.float16) for s in range(3))
    return (
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, implementation="cudnn"),
        (q, k, v),
    )


@wild("jax", "scipy.special.expi", "right", "exp(x) / x")
def _():
    import jax

    return jax.scipy.special.expi, (np.array([0.3, 1.2, 4.0, 7.5], np.float32),)
