"""Optimal transport and linear algebra."""

from __future__ import annotations

import numpy as np

from tests.wild.entries import Shelf, normal, positive_definite, uniform

wild = Shelf()


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
