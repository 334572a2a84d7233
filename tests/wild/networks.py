"""Networks: attention, quantisation and spikes."""

from __future__ import annotations

import functools

import numpy as np

from funcnet.checks import Pullback
from tests.wild.entries import Shelf, normal, uniform

wild = Shelf()


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


@wild(
    "aqtp",
    "round_with_gradient",
    "by design",
    "straight through: rounding is a step function",
    expect=lambda x: x,
)
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
    "wrong",
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


@wild(
    "rlax",
    "clip_gradient",
    "by design",
    "the identity, whose cotangent is clipped",
    expect=Pullback(lambda ct, x: ct.clip(-0.5, 0.5)),
)
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
