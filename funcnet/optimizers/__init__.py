r"""Optimizers written by hand: one expression a leaf, each an optax transformation.

Every function here returns an `(init, update)` pair that chains with optax:
`updates, state = optimizer.update(grads, state, params)` and then
`params = optax.apply_updates(params, updates)`. `params` may be left out unless a weight decay or
a norm needs it; keyword arguments that others in a chain need (`value=...`) are ignored. What holds
for all of them:

- $g$ is the gradient, $p$ the parameter, $u$ the update ($p' = p + u$), $\eta$ the learning rate,
  $t = 1, 2, \dots$ the step's number; a prime marks what the step leaves behind.
- `learning_rate` is a number, a scalar array (traced or not: another value does not compile again)
  or a schedule `step -> rate`, called with 0 at the first step. `weight_decay` likewise.
- The state is one flat NamedTuple: `count` (int32, stops at its maximum) and the moments, in the
  parameters' dtype unless `mu_dtype` or `accumulator_dtype` says otherwise. It has the same shape
  for a fixed rate and for a schedule.
- Complex leaves take $|g|^2$ for $g^2$, as in optax: moments of squares are real, and a gradient
  turned by a phase turns the update by the same. JAX's gradient of a real loss points along the
  conjugate: give `update` its `.conj()`.
- `init` takes `jax.ShapeDtypeStruct` leaves too. None and empty trees have no leaves.
- Leaves of float16 and bfloat16 are computed in float32 and rounded once, at the end.
- $\tiny$ is the smallest normal number of the coarsest dtype among a leaf's gradient and moments.
  It is added to every denominator: no zero gradient divides 0 by 0, even where `eps` is 0 or
  vanishes in float16. Next to an eps above 1e-30 it changes no bit in float32 and float64.
- $1 - b^t$ is computed as $-\mathrm{expm1}(t\,\mathrm{log1p}(b - 1))$, exact to a few ulp in
  float32 too, where $1 - b^t$ itself is off by 1e-5 at $b = 0.999$, $t = 1$.

Every function raises ValueError for a decay or momentum outside [0, 1), a negative rate, eps or
weight decay; its `update` raises ValueError where parameters are needed and missing, or where
gradients and state differ in structure or shape, and TypeError for leaves that are neither
floats nor complex, or are complex where a moment is real.

`optax.inject_hyperparams` keeps the numbers in the parameters' dtype, where a bfloat16 0.999 is 1:
give it `hyperparam_dtype=jnp.float32` there.

Names and defaults are those of optax 0.2.8; arguments that optax lacks are keyword-only (the
velocity of `momentum` and `nesterov` aside).
"""

from funcnet._homes import at_home
from funcnet.optimizers._adam import adam, adamax, adamw, amsgrad, lamb, nadam
from funcnet.optimizers._adaptive import adadelta, adagrad, rmsprop
from funcnet.optimizers._frame import (
    AdaDeltaState,
    AdaGradState,
    AdamState,
    AMSGradState,
    LionState,
    MuonState,
    RMSPropState,
    TraceState,
)
from funcnet.optimizers._momentum import lion, momentum, nesterov, sgd
from funcnet.optimizers._muon import muon
from funcnet.optimizers._registry import OPTIMIZERS, Entry

__all__ = [
    "OPTIMIZERS",
    "AMSGradState",
    "AdaDeltaState",
    "AdaGradState",
    "AdamState",
    "Entry",
    "LionState",
    "MuonState",
    "RMSPropState",
    "TraceState",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "lamb",
    "lion",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "rmsprop",
    "sgd",
]

at_home(globals())
