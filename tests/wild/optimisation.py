"""Optimisers, solvers and the modules that they are made of."""

from __future__ import annotations

import numpy as np

from tests.wild.entries import Shelf, normal, uniform

wild = Shelf()


@wild("optax", "projections.projection_simplex", "right", "the Jacobian on the support")
def _():
    import optax

    return optax.projections.projection_simplex, (np.array([0.35, -0.2, 0.8, 0.1], np.float32),)


@wild("optax", "safe_softmax_cross_entropy", "right", "the derivative of weights · log softmax")
def _():
    import optax

    labels = np.float32([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    return optax.losses.safe_softmax_cross_entropy, (normal(2, 3), labels)


@wild(
    "optax",
    "scale_gradient",
    "by design",
    "the identity, whose cotangent is scaled on purpose",
    expect=lambda tree: {name: 0.1 * leaf for name, leaf in tree.items()},
)
def _():
    import optax

    return (
        lambda tree: optax.scale_gradient(tree, 0.1),
        ({"w": normal(3, 2), "b": normal(2)},),
    )


@wild("jaxopt", "projection_sparse_simplex", "right", "as the simplex, on the k largest entries")
def _():
    from jaxopt.projection import projection_sparse_simplex

    return (
        lambda x: projection_sparse_simplex(x, max_nz=3),
        (np.array([0.3, -0.2, 0.9, 0.1, 0.4], np.float32),),
    )


@wild(
    "jaxopt",
    "make_perturbed_argmax",
    "by design",
    "an estimate of the gradient of an expectation, where the sample mean itself has steps",
)
def _():
    import jax
    import jax.numpy as jnp
    from jaxopt.perturbations import make_perturbed_argmax

    def hard(x):
        return jax.nn.one_hot(jnp.argmax(x), 4)

    return make_perturbed_argmax(hard, num_samples=20, sigma=0.5), (normal(4), jax.random.key(0))


@wild("jaxopt", "implicit_diff.custom_root", "right", "a ridge regression that is solved exactly")
def _():
    import jax
    import jax.numpy as jnp
    from jaxopt import implicit_diff, linear_solve

    def optimality(w, strength, x, y):
        return x.T @ (x @ w - y) + strength * w

    @implicit_diff.custom_root(optimality, solve=linear_solve.solve_cholesky)
    def ridge(init, strength, x, y):
        return jax.scipy.linalg.solve(x.T @ x + strength * jnp.eye(3), x.T @ y, assume_a="pos")

    return ridge, (None, np.float32(0.5), normal(6, 3), normal(6))


@wild(
    "jaxopt",
    "GradientDescent.run",
    "cannot be judged",
    "the descent stops at its tolerance of 1e-3, where its gradient is 1.5 % from any other",
)
def _():
    import jax.numpy as jnp
    import jaxopt

    def loss(w, strength, x, y):
        return jnp.mean((x @ w - y) ** 2) + strength * jnp.sum(w**2)

    def fit(strength, x, y):
        return jaxopt.GradientDescent(loss).run(jnp.zeros(3), strength, x, y).params

    return fit, (np.float32(0.5), normal(6, 3), normal(6))


@wild(
    "jaxopt",
    "isotonic_l2_pav",
    "cannot be judged",
    "its callback is compiled by numba, which refuses the arrays that this jax hands it",
)
def _():
    from jaxopt.isotonic import isotonic_l2_pav

    return isotonic_l2_pav, (np.array([0.1, 0.7, 0.4, 1.3, 1.2, 2.0], np.float32),)


@wild("equinox", "filter_custom_vjp", "right", "the product rule, with symbolic zeros and a module")
def _():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    @eqx.filter_custom_vjp
    def apply(inputs):
        layer, x = inputs
        return jnp.tanh(jax.vmap(layer)(x))

    @apply.def_fwd
    def forward(perturbed, inputs):
        y = apply(inputs)
        return y, y

    @apply.def_bwd
    def backward(y, g, perturbed, inputs):
        layer, x = inputs
        g = g * (1 - y**2)
        bare = jax.tree.map(lambda _: None, eqx.filter(layer, eqx.is_inexact_array))
        gradients = eqx.tree_at(
            lambda m: (m.weight, m.bias), bare, (g.T @ x, g.sum(0)), is_leaf=lambda x: x is None
        )
        return gradients, g @ layer.weight

    layer = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    return lambda layer, x: apply((layer, x)), (layer, normal(4, 3))


@wild(
    "equinox",
    "internal.while_loop",
    "right",
    "checkpointed backpropagation through a loop of unknown length is autodiff of its steps",
)
def _():
    import equinox.internal as eqxi
    import jax.numpy as jnp

    def steps(w, x):
        def body(state):
            n, x = state
            return n + 1, jnp.tanh(w @ x)

        return eqxi.while_loop(
            lambda state: state[0] < 5, body, (0, x), max_steps=8, kind="checkpointed"
        )[1]

    return steps, (normal(3, 3), normal(3))


@wild("equinox", "debug.backward_nan", "right", "the identity, which prints its cotangent")
def _():
    import equinox as eqx
    import jax.numpy as jnp

    return lambda x: jnp.sin(eqx.debug.backward_nan(x, "x")), (normal(3),)


@wild("equinox", "error_if", "right", "the identity, with an error by callback that never fires")
def _():
    import equinox as eqx
    import jax.numpy as jnp

    return lambda x: jnp.log(eqx.error_if(x, x <= 0, "not positive")), (uniform(0.5, 2, 4),)


@wild("diffrax", "diffeqsolve", "right", "backpropagation through the steps of Tsit5")
def _():
    import diffrax
    import jax.numpy as jnp

    def solve(y, w):
        term = diffrax.ODETerm(lambda t, y, w: jnp.tanh(w @ y))
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.25, y, w).ys

    return solve, (normal(3), normal(3, 3, seed=1))


@wild(
    "diffrax",
    "BacksolveAdjoint",
    "imprecise",
    "the continuous adjoint is not the derivative of the discrete steps, but near it",
)
def _():
    import diffrax
    import jax.numpy as jnp

    def solve(y, w):
        term = diffrax.ODETerm(lambda t, y, w: jnp.tanh(w @ y))
        adjoint = diffrax.BacksolveAdjoint()
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.1, y, w, adjoint=adjoint).ys

    return solve, (normal(3), normal(3, 3, seed=1))


@wild(
    "optimistix",
    "root_find",
    "right",
    "implicit, at a root that Newton's last step takes from 1e-6 to rounding",
)
def _():
    import jax.numpy as jnp
    import optimistix as optx

    def solve(a, b):
        solver = optx.Newton(rtol=1e-6, atol=1e-6)
        return optx.root_find(
            lambda x, args: x + args[0] * jnp.tanh(x) - args[1], solver, jnp.zeros(3), (a, b)
        ).value

    return solve, (uniform(0.5, 1.5, 3), normal(3))


@wild("lineax", "internal.two_norm", "right", "x / |x|, of a tree of real and complex leaves")
def _():
    import lineax

    x = (normal(3) + 1j * normal(3, seed=1)).astype(np.complex64)
    return lineax.internal.two_norm, ({"a": x, "b": normal(2, 2)},)


@wild(
    "quadax",
    "quadgk",
    "right",
    "the adaptive mesh is frozen: what differentiates is its sum, which is exact to rounding here",
)
def _():
    import jax.numpy as jnp
    import quadax

    def area(a, b):
        return quadax.quadgk(lambda x, a: jnp.exp(-a * x**2), jnp.stack([0.0 * b, b]), (a,))[0]

    return area, (np.float32(0.7), np.float32(1.5))


@wild(
    "equinox",
    "internal.nondifferentiable_backward",
    "cannot be judged",
    "refuses on purpose: its backward pass raises",
)
def _():
    import equinox.internal as eqxi
    import jax.numpy as jnp

    return lambda x: jnp.sin(eqxi.nondifferentiable_backward(x)), (normal(3),)


@wild(
    "optimistix",
    "least_squares",
    "imprecise",
    "Levenberg-Marquardt stops at a tolerance of 1e-4, where the derivative is taken",
)
def _():
    import jax.numpy as jnp
    import optimistix as optx

    x = np.linspace(0, 1, 6, dtype=np.float32)

    def fit(y):
        return optx.least_squares(
            lambda w, y: w[0] * jnp.exp(w[1] * x) - y,
            optx.LevenbergMarquardt(rtol=1e-4, atol=1e-4),
            jnp.ones(2),
            y,
        ).value

    return fit, (1.5 * np.exp(-0.7 * x) + normal(6) / 20,)
