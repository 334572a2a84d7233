"""Rules of other people: `jax.custom_vjp` and `jax.custom_jvp` as they are found in the wild.

Each entry calls a public function of a package that is installed from PyPI, with small inputs as
its user would have them, and says what the rule deserves, from its code and from differences of
its values in float64, whatever the checker says:

- "right": the derivative of the value that the function gives, to rounding;
- "imprecise": that derivative to fewer digits than the arithmetic has (an iteration that stops at
  a tolerance, a table or a series in single precision);
- "by design": meant to be something else than the derivative (a straight-through or surrogate
  gradient, a scaled or projected one, an estimate, an argument that is declared to have none);
- "wrong": meant to be the derivative, and is not;
- "cannot be judged": neither autodiff of the body nor differences say what it should be.

`make` imports the package when it is called, and not before.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

Deserves = Literal["right", "imprecise", "by design", "wrong", "cannot be judged"]
REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")
PINS = dict(text.split("==") for text in REQUIREMENTS.read_text().splitlines() if "==" in text)


class Wild(NamedTuple):
    package: str
    version: str
    name: str
    make: Callable[[], tuple[Callable, tuple[Any, ...]]]
    deserves: Deserves
    why: str
    options: dict[str, Any]

    @property
    def entry(self) -> str:
        return f"{self.package}:{self.name}"


WILD: list[Wild] = []


def wild(package: str, name: str, deserves: Deserves, why: str, **options: Any) -> Callable:
    def add(make: Callable) -> Callable:
        WILD.append(Wild(package, PINS[package], name, make, deserves, why, options))
        return make

    return add


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def uniform(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32)


def positive_definite(n: int, seed: int = 0) -> np.ndarray:
    a = normal(n, n, seed=seed)
    return (a @ a.T / n + np.eye(n)).astype(np.float32)


# jax itself


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


# optax and jaxopt


@wild("optax", "projections.projection_simplex", "right", "the Jacobian on the support")
def _():
    import optax

    return optax.projections.projection_simplex, (np.array([0.35, -0.2, 0.8, 0.1], np.float32),)


@wild("optax", "safe_softmax_cross_entropy", "right", "the derivative of weights · log softmax")
def _():
    import optax

    labels = np.float32([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    return optax.losses.safe_softmax_cross_entropy, (normal(2, 3), labels)


@wild("optax", "scale_gradient", "by design", "the identity, whose cotangent is scaled on purpose")
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

    return functools.partial(ridge, None), (np.float32(0.5), normal(6, 3), normal(6))


@wild(
    "jaxopt",
    "GradientDescent.run",
    "imprecise",
    "the descent stops at its tolerance of 1e-3, and the derivative is taken where it stopped",
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


# Kidger's: equinox, diffrax, optimistix, lineax; quadax


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


# Networks and quantisation


def fp8_inputs():
    return normal(4, 3), np.float32([1.0]), np.float32([0.5] * 4)


@wild("flax", "fp8_ops.in_qdq", "by design", "straight through, and new scales for gradients")
def _():
    import jax.numpy as jnp
    from flax.linen import fp8_ops

    f = functools.partial(fp8_ops.in_qdq, jnp.float32, jnp.float8_e4m3fn)
    return f, fp8_inputs()


@wild("flax", "fp8_ops.out_qdq", "by design", "a quantised cotangent, and new scales for gradients")
def _():
    import jax.numpy as jnp
    from flax.linen import fp8_ops

    f = functools.partial(fp8_ops.out_qdq, jnp.float32, jnp.float8_e5m2)
    return f, fp8_inputs()


@wild("aqtp", "v2 dot_general", "by design", "straight through int8 rounding, quantised cotangents")
def _():
    import jax.numpy as jnp
    from aqt.jax.v2 import config

    def matmul(x, w):
        dot = config.fully_quantized(use_stochastic_rounding=False)
        return dot(x, w, (((1,), (0,)), ((), ())))

    return matmul, (jnp.asarray(normal(4, 6)), jnp.asarray(normal(6, 3)))


@wild("aqtp", "round_with_gradient", "by design", "straight through: rounding is a step function")
def _():
    from aqt.jax_legacy.jax.primitives import round_with_gradient

    return round_with_gradient, (3 * normal(5),)


@wild("jaxpike", "surrogate.ATan", "by design", "a spike is a step, and its gradient a surrogate")
def _():
    from jaxpike.surrogate import ATan

    return ATan(), (normal(6),)


@wild(
    "flash-attention-jax",
    "flash_attention",
    "imprecise",
    "the slope through the 1e-10 that the forward pass adds to its sums is left out",
)
def _():
    from flash_attention_jax import flash_attention

    q, k, v = (normal(1, 2, 4, 3, seed=s) for s in range(3))
    return flash_attention, (q, k, v, np.ones((1, 4), bool))


@wild("kfac-jax", "utils.stable_sqrt", "right", "clipped below 2.5e-7 only, and sqrt's slope above")
def _():
    from kfac_jax._src.utils.math import stable_sqrt

    return stable_sqrt, (uniform(0.1, 2, 4),)


@wild("aqtp", "fp_cast.downcast_sat_ftz", "by design", "straight through, between the saturations")
def _():
    from aqt.jax_legacy.jax.fp_cast import downcast_sat_ftz

    return functools.partial(downcast_sat_ftz, exp_min=-8, exp_max=7, sig_bits=3), (normal(6),)


@wild("keras", "fake_quant_with_min_max_vars", "by design", "straight through within the range")
def _():
    import os

    os.environ["KERAS_BACKEND"] = "jax"
    from keras import quantizers

    return (
        lambda x: quantizers.fake_quant_with_min_max_vars(x, -1.0, 1.0, num_bits=4),
        (normal(6),),
    )


@wild("rlax", "clip_gradient", "by design", "the identity, whose cotangent is clipped")
def _():
    import rlax

    return lambda x: rlax.clip_gradient(x, -0.5, 0.5), (normal(5),)


@wild("spyx", "axn.superspike", "by design", "a spike is a step, and its gradient a surrogate")
def _():
    import spyx

    return spyx.axn.superspike(), (normal(6),)


@wild(
    "spyx",
    "compress.packed_spike_dense",
    "right",
    "a matrix product that keeps its spikes as bits; documented: to first order",
    second_order=False,
)
def _():
    from spyx.experimental.compress import packed_spike_dense

    return packed_spike_dense, ((normal(3, 10) > 0).astype(np.float32), normal(10, 4))


# Probability


@wild("distrax", "multiply_no_nan", "right", "the product rule, with symbolic zeros")
def _():
    from distrax._src.utils.math import multiply_no_nan

    return multiply_no_nan, (normal(5), normal(5, seed=1))


@wild("distrax", "VonMises.cdf", "right", "a series of 20 terms, which differentiates itself")
def _():
    import distrax

    return (
        lambda x, k: distrax.VonMises(0.0, k).cdf(x),
        (uniform(-2, 2, 4), uniform(0.5, 3, 4, seed=1)),
    )


@wild(
    "distrax",
    "VonMises.sample",
    "by design",
    "implicit reparameterisation: of the distribution, and not of the rejection sampler's steps",
)
def _():
    import distrax
    import jax

    return (
        lambda k, key: distrax.VonMises(0.0, k).sample(seed=key),
        (uniform(0.5, 3, 4), jax.random.key(1)),
    )


@wild("distreqx", "power_no_nan", "right", "the power rule, both arguments")
def _():
    from distreqx.utils.math import power_no_nan

    return power_no_nan, (uniform(0.5, 2, 5), normal(5))


@wild("numpyro", "log1mexp", "right", "-1 / expm1(-x)")
def _():
    from numpyro.distributions.util import log1mexp

    return log1mexp, (np.array([-0.1, -0.5, -2.0, -5.0], np.float32),)


def power_law(method, value):
    import numpyro.distributions as dist

    def f(x, alpha, low, high):
        return getattr(dist.DoublyTruncatedPowerLaw(alpha, low, high), method)(x)

    return f, (np.float32(value), np.float32(-2.5), np.float32(1.0), np.float32(4.0))


@wild(
    "numpyro",
    "DoublyTruncatedPowerLaw.log_prob",
    "wrong",
    "low and high get the density's slopes and not its log's, and high's with the wrong sign",
)
def _():
    return power_law("log_prob", 2.0)


@wild("numpyro", "DoublyTruncatedPowerLaw.cdf", "right", "the quotient rule, off alpha = -1")
def _():
    return power_law("cdf", 2.0)


@wild("tfp-nightly", "math.log_cosh", "right", "tanh")
def _():
    from tensorflow_probability.substrates import jax as tfp

    return tfp.math.log_cosh, (normal(5),)


@wild("tfp-nightly", "math.betainc", "right", "a continued fraction and its partial derivatives")
def _():
    from tensorflow_probability.substrates import jax as tfp

    return (
        tfp.math.betainc,
        (uniform(0.5, 3, 4), uniform(0.5, 3, 4, seed=1), uniform(0.1, 0.9, 4)),
    )


@wild(
    "tfp-nightly",
    "math.bessel_ive",
    "by design",
    "documented: the order v has no gradient, and the rule gives zero for it",
)
def _():
    from tensorflow_probability.substrates import jax as tfp

    return tfp.math.bessel_ive, (uniform(0.5, 2, 3), uniform(0.5, 4, 3, seed=1))


@wild("tfp-nightly", "math.lambertw", "right", "the implicit derivative of Halley's fixed point")
def _():
    from tensorflow_probability.substrates import jax as tfp

    return tfp.math.lambertw, (uniform(0.1, 3, 4),)


@wild(
    "flowjax",
    "NumericalInverse",
    "imprecise",
    "bisection stops at a width of 1e-5, and the derivative is taken there",
)
def _():
    import functools

    import jax.numpy as jnp
    from flowjax import bijections
    from flowjax.root_finding import bisect_check_expand_search, root_finder_to_inverter

    finder = functools.partial(bisect_check_expand_search, midpoint=jnp.zeros(3))
    inverse = bijections.NumericalInverse(
        bijections.Chain([bijections.Affine(jnp.ones(3), 2 * jnp.ones(3)), bijections.Tanh((3,))]),
        root_finder_to_inverter(finder),
    )
    return lambda y: inverse.inverse(y), (np.float32([0.2, -0.4, 0.6]),)


@wild(
    "numpyro",
    "DoublyTruncatedPowerLaw.cdf at -1",
    "wrong",
    "at alpha = -1 the slope in high has the wrong sign",
)
def _():
    f, (x, _, low, high) = power_law("cdf", 2.0)
    return f, (x, np.float32(-1.0), low, high)


@wild("tfp-nightly", "math.igammainv", "right", "the implicit derivative of a quantile")
def _():
    from tensorflow_probability.substrates import jax as tfp

    return tfp.math.igammainv, (uniform(0.5, 3, 4), uniform(0.1, 0.9, 4, seed=1))


@wild(
    "tfp-nightly",
    "bessel_iv_ratio in z",
    "right",
    "a recurrence for the ratio's slope",
    argnums=[1],
)
def _():
    from tensorflow_probability.substrates import jax as tfp

    return tfp.math.bessel_iv_ratio, (uniform(1, 3, 3), uniform(0.5, 4, 3, seed=1))


# Transport, linear algebra


@wild("ott-jax", "math.softmin", "right", "the softmax of -x / gamma", argnums=[0])
def _():
    from ott.math.utils import softmin

    return lambda x, gamma: softmin(x, gamma, 1), (normal(3, 4), np.float32(0.5))


@wild("ott-jax", "math.logsumexp", "right", "the weights of b · softmax")
def _():
    from ott.math.utils import logsumexp

    return lambda x, b: logsumexp(x, axis=1, b=b), (normal(3, 4), uniform(0.5, 2, 3, 4))


@wild(
    "ott-jax",
    "math.sqrtm",
    "right",
    "a Sylvester equation; Newton-Schulz looks up every ten steps, by when it is at rounding here",
)
def _():
    from ott.math.matrix_square_root import sqrtm_only

    return sqrtm_only, (positive_definite(3),)


@wild("ott-jax", "RegTICost.h_legendre", "right", "Danskin: the maximiser is the gradient")
def _():
    from ott.geometry import costs, regularizers

    cost = costs.RegTICost(regularizers.L1(), lam=0.3)
    return cost.h_legendre, (np.float32([0.9, -1.4, 0.1, 2.0]),)


@wild(
    "ott-jax",
    "Sinkhorn",
    "imprecise",
    "the iteration stops at an error of 1e-3, and Danskin's theorem holds at its end",
)
def _():
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    def cost(x, y):
        geometry = pointcloud.PointCloud(x, y, epsilon=0.5)
        return sinkhorn.Sinkhorn()(linear_problem.LinearProblem(geometry)).reg_ot_cost

    return cost, (normal(5, 2), normal(6, 2, seed=1))


@wild("matfree", "decomp.hessenberg", "right", "the adjoint of Arnoldi's recursion")
def _():
    from matfree import decomp

    run = decomp.hessenberg(3, reortho="full")

    def q_and_h(vector, matrix):
        found = run(lambda v, a: a @ v, vector, matrix)
        return found.Q_tall, found.J_small

    return q_and_h, (normal(4), normal(4, 4, seed=1))


@wild("matfree", "lstsq.lsmr", "imprecise", "least squares by iteration, to a tolerance of 1e-6")
def _():
    from matfree import lstsq

    run = lstsq.lsmr()

    def solve(matrix, rhs):
        return run(lambda v, a: v @ a, rhs, matrix)[0]

    return solve, (normal(6, 3), normal(6))


@wild("nifty", "re.solve", "right", "A^-1 (db - dA x), for a positive definite matrix")
def _():
    import nifty.re as jft

    def solve(a, b):
        return jft.tree_math.solve(a @ a.T + 2 * np.eye(3), b)

    return solve, (normal(3, 3), normal(3))


@wild(
    "fmmax",
    "eig.eig",
    "right",
    "eigenvalues and projectors of a matrix whose eigenvalues are apart",
)
def _():
    import jax.numpy as jnp
    from fmmax.eig import eig

    def invariants(a):
        values, vectors = eig(a)
        return values, jnp.abs(vectors)

    a = np.diag([1.0, 2.5, 4.0]) + 0.3 * normal(3, 3) + 0.2j * normal(3, 3, seed=1)
    return invariants, (a.astype(np.complex64),)


@wild("linox", "toeplitz_solve_hybrid", "right", "SciPy solves by callback; its adjoint is exact")
def _():
    from linox.linalg._toeplitz_solve import toeplitz_solve_hybrid

    return toeplitz_solve_hybrid, (np.float32([3.0, 0.8, -0.4, 0.2]), normal(4))


@wild(
    "qpax",
    "solve_qp_primal",
    "by design",
    "the gradient of a relaxed problem (kappa = 1e-3), whose solution is smooth in its data",
)
def _():
    import qpax

    def solve(q, g, h):
        a, b = np.zeros((0, 3), np.float32), np.zeros(0, np.float32)
        return qpax.solve_qp_primal(np.diag([2.0, 3.0, 4.0]).astype(np.float32), q, a, b, g, h)

    return solve, (normal(3), normal(4, 3), np.ones(4, np.float32))


@wild("adv-jax-math", "sparse_pullback", "right", "exact where the Jacobian is diagonal, as here")
def _():
    import jax.numpy as jnp
    from adv_jax_math import sparse_pullback

    return lambda x: sparse_pullback(lambda y: jnp.sin(y) * y, x), (normal(5),)


@wild(
    "ott-jax",
    "fixpoint_iter_backprop",
    "right",
    "autodiff of the steps that a loop took, from its checkpoints; functions are its arguments",
)
def _():
    import jax.numpy as jnp
    from ott.math.fixed_point_loop import fixpoint_iter_backprop

    def more(iteration, a, x):
        return jnp.max(jnp.abs(jnp.cos(a @ x) - x)) > 1e-3

    def step(iteration, a, x, compute_error):
        return jnp.cos(a @ x)

    return fixpoint_iter_backprop, (more, step, 0, 40, 4, normal(3, 3) / 3, normal(3))


@wild("tensorcircuit-ng", "adaware_qr", "right", "the triangular solves of QR's adjoint")
def _():
    from tensorcircuit.backends.jax_ops import adaware_qr

    return adaware_qr, (normal(4, 3),)


@wild("tensorcircuit-ng", "adaware_svd", "right", "singular values and projectors, complex")
def _():
    import jax.numpy as jnp
    from tensorcircuit.backends.jax_ops import adaware_svd

    def invariants(a):
        u, s, v = adaware_svd(a)
        return s, jnp.abs(u), u[:, :1] @ v[:1]

    return invariants, ((normal(4, 3) + 1j * normal(4, 3, seed=1)).astype(np.complex64),)


@wild("nifty", "re.sqrtm", "right", "a Sylvester equation in the eigenvectors' basis")
def _():
    import nifty.re as jft

    return lambda a: jft.tree_math.sqrtm(a @ a.T + np.eye(3)), (normal(3, 3),)


@wild("pennylane", "math.fidelity", "right", "of two mixed states, in closed form")
def _():
    import jax.numpy as jnp
    import pennylane as qml

    def state(a):
        rho = a @ a.conj().T
        return rho / jnp.trace(rho)

    a, b = (normal(2, 2, seed=s) + 1j * normal(2, 2, seed=s + 9) for s in (0, 1))
    return (
        lambda a, b: qml.math.fidelity(state(a), state(b)),
        (a.astype(np.complex64), b.astype(np.complex64)),
    )


# Physics and astronomy


@wild("jaxoplanet", "core.kepler", "right", "derivatives of the true anomaly in closed form")
def _():
    from jaxoplanet.core.kepler import kepler

    return kepler, (uniform(0.2, 6, 5), uniform(0.05, 0.6, 5, seed=1))


@wild(
    "exojax",
    "special.faddeeva.rewofzx",
    "wrong",
    "the constant of the slope in y is not multiplied by the cotangent",
)
def _():
    from exojax.special.faddeeva import rewofzx

    return rewofzx, (np.float32(0.8), np.float32(0.6))


@wild(
    "exojax",
    "lpf.hjert",
    "imprecise",
    "the exact function's slope, where the value is a table of seven digits",
)
def _():
    import jax
    from exojax.opacity.lpf.lpf import hjert

    return jax.vmap(hjert), (uniform(-2, 2, 4), uniform(0.2, 2, 4, seed=1))


@wild("exojax", "integrated_rotkernel_trans", "right", "arcsin's slope inside, zero outside")
def _():
    from exojax.postproc.spin_rotation import integrated_rotkernel_trans

    return integrated_rotkernel_trans, (uniform(-0.9, 0, 4), uniform(0, 0.9, 4, seed=1))


@wild(
    "jax-md",
    "rigid_body.quaternion_rotate",
    "by design",
    "the gradient in q is projected onto the unit sphere's tangent space",
)
def _():
    from jax_md.rigid_body import _quaternion_rotate

    q = normal(4)
    return _quaternion_rotate, (q / np.linalg.norm(q), normal(3))


@wild(
    "jax-md",
    "space.transform",
    "by design",
    "documented: the gradient in R stays in real space, without the box",
)
def _():
    from jax_md import space

    box = np.float32([[2.0, 0.3, 0.1], [0.0, 1.5, 0.2], [0.0, 0.0, 1.8]])
    return space.transform, (box, uniform(0, 1, 4, 3))


@wild("jax-md", "segment_mm", "right", "a matrix product for each run of rows; sizes are integers")
def _():
    from jax_md._nn.uma.kernels import _segment_mm_2d

    return _segment_mm_2d, (normal(5, 3), normal(2, 4, 3), np.array([2, 3], np.int32))


@wild("ripplegw", "planck_taper", "right", "in y; the frequencies are data", argnums=[1])
def _():
    from ripplegw.waveforms.cbc.IMRPhenom_NRTidal.IMRPhenomD_NRTidalv2 import get_planck_taper

    return get_planck_taper, (np.float32([0.9, 1.05, 1.1, 1.15, 1.3]), np.float32(1.0))


@wild("e3x", "ops.norm", "right", "x / |x|, along an axis")
def _():
    import e3x

    return lambda x: e3x.ops.norm(x, axis=-1), (normal(4, 3),)


@wild("e3x", "nn.smooth_switch", "right", "the slope of a smooth step, written out")
def _():
    import e3x

    return e3x.nn.smooth_switch, (uniform(0.1, 0.9, 5),)


@wild("folx", "slogdet", "right", "the inverse, transposed")
def _():
    from folx.slogdet import slogdet

    return slogdet, (normal(2, 3, 3),)


@wild(
    "folx",
    "slogdet of complex matrices",
    "by design",
    "the sign's tangent is a value kept for a Laplacian: 'not the real jvp', its source says",
)
def _():
    from folx.slogdet import slogdet

    return slogdet, ((normal(3, 3) + 1j * normal(3, 3, seed=1)).astype(np.complex64),)


@wild("chebax", "ChebSeries", "right", "the derivative of a Chebyshev series is one")
def _():
    import chebax

    return (
        lambda x, c: chebax.ChebSeries(c, (0.0, 2.0))(x),
        (uniform(0.1, 1.9, 4), normal(6)),
    )


@wild(
    "jax-galsim",
    "bessel.kv",
    "by design",
    "documented: the order nu has no gradient, and the rule gives zero for it",
)
def _():
    from jax_galsim.bessel import kv

    return kv, (uniform(0.5, 2, 3), uniform(0.5, 4, 3, seed=1))


@wild(
    "netket",
    "jax.expect",
    "by design",
    "the gradient of an expectation over samples that depend on the parameters, as a policy's is",
)
def _():
    import jax.numpy as jnp
    import netket as nk

    def energy(w, samples):
        def log_pdf(w, s):
            return jnp.tanh(s @ w)

        return nk.jax.expect(log_pdf, lambda w, s: jnp.cos(s @ w), w, samples)[0]

    return energy, (normal(3), normal(8, 3, seed=1))


@wild("netket", "jax.apply_packed", "right", "autodiff of the rows that are evaluated")
def _():
    import jax.numpy as jnp
    import netket as nk

    def rows(w, x, where):
        return nk.jax.apply_packed(lambda w, x: jnp.tanh(x @ w), w, x, where, 0.0, chunk_size=2)

    return rows, (normal(3), normal(6, 3), np.array([1, 0, 0, 1, 1, 0], bool))


@wild("exojax", "rotkernel_Gimenez", "right", "the slopes of a limb-darkened disc, inside it")
def _():
    from exojax.postproc.spin_rotation import rotkernel_Gimenez

    return rotkernel_Gimenez, (uniform(-0.9, 0.9, 5), np.float32(0.4), np.float32(0.2))


@wild("jax-md", "reaxff safe_sqrt", "right", "sqrt's slope, away from 0")
def _():
    from jax_md.mm_forcefields.reaxff.reaxff_helper import safe_sqrt

    return safe_sqrt, (uniform(0.1, 2, 4),)


@wild("jaxfmm", "near._take_sorted", "right", "a gather's transpose, with an index out of range")
def _():
    from jaxfmm.near import _take_sorted

    return _take_sorted, (normal(5, 2), np.array([0, 0, 2, 3, 3], np.int32))


@wild("e3nn-jax", "spherical_harmonics", "right", "polynomials, differentiated by their recursion")
def _():
    import e3nn_jax as e3nn

    return (
        lambda x: e3nn.spherical_harmonics([1, 2, 3], e3nn.IrrepsArray("1o", x), True).array,
        (normal(2, 3),),
    )


@wild("chebax", "lambertw", "right", "the implicit derivative of Halley's fixed point")
def _():
    import chebax

    return chebax.lambertw, (uniform(0.1, 3, 4),)
