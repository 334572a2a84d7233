"""What a program's products and convolutions cost, whichever primitives they are written with."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax

from funcnet._jaxprs import opened, sub_jaxprs
from funcnet.kernels._conv import conv_bias_k, conv_k, input_gradient_k
from funcnet.kernels._conv_pool import conv_pool_k
from funcnet.kernels._products import AXES, product_bias_k, product_k


def flops(jaxpr: Any) -> int:
    """Two for each multiply-add of the products and convolutions in a program.

    Of the branches of a choice, by platform for instance, the largest counts; a scan's body counts
    as often as it runs, a while loop's once.

    Args:
      jaxpr: a program, from `jax.make_jaxpr`.

    >>> flops(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 4))))
    48
    """
    total = 0
    for equation in opened(jaxpr).eqns:
        name, options = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = options["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            terms = math.prod(shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * terms
        elif name == "conv_general_dilated":
            spec, kernel = options["dimension_numbers"].rhs_spec, equation.invars[1].aval
            terms = kernel.size // kernel.shape[spec[0]]
            total += 2 * equation.outvars[0].aval.size * terms
        elif name in (product_k.name, product_bias_k.name):
            axis, _ = AXES[options.get("form", "nn")]
            terms = equation.invars[0].aval.shape[axis]
            total += 2 * equation.outvars[0].aval.size * terms
        elif name in (conv_k.name, conv_bias_k.name):
            kernel = equation.invars[1].aval
            total += 2 * equation.outvars[0].aval.size * (kernel.size // kernel.shape[-1])
        elif name == input_gradient_k.name:  # of a transposed convolution's images
            images, kernel = (v.aval for v in equation.invars)
            total += 2 * images.size * (kernel.size // kernel.shape[-1])
        elif name == conv_pool_k.name:  # whose output says nothing of a last odd row
            where = {k: v for k, v in options.items() if k != "precision"}
            definition = functools.partial(conv_pool_k.definition, **where)
            total += flops(jax.make_jaxpr(definition)(*(v.aval for v in equation.invars)))
        elif name == "cond":
            total += max(flops(branch) for branch in options["branches"])
        else:
            times = options.get("length", 1) if name == "scan" else 1
            total += times * sum(flops(inner) for inner in sub_jaxprs(options))
    return total
