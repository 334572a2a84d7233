"""Physics and astronomy."""

from __future__ import annotations

import numpy as np

from tests.wild.entries import Shelf, normal, uniform

wild = Shelf()


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
