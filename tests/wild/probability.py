"""Distributions and special functions."""

from __future__ import annotations

import functools

import numpy as np

from tests.wild.entries import Shelf, normal, uniform

wild = Shelf()


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


@wild("numpyro", "DoublyTruncatedPowerLaw.icdf", "right", "the implicit derivative of a quantile")
def _():
    return power_law("icdf", 0.3)


@wild(
    "numpyro",
    "DoublyTruncatedPowerLaw.icdf at -1",
    "imprecise",
    "at alpha = -1 the slope in alpha is the mean of those at a distance of 1e-3",
)
def _():
    f, (x, _, low, high) = power_law("icdf", 0.3)
    return f, (x, np.float32(-1.0), low, high)


@wild(
    "numpyro",
    "DoublyTruncatedPowerLaw.log_prob at -1",
    "wrong",
    "at alpha = -1 too, low and high get the density's slopes and not its log's",
)
def _():
    f, (x, _, low, high) = power_law("log_prob", 2.0)
    return f, (x, np.float32(-1.0), low, high)


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
