r"""Checkers to point at your own backward rules and optimizers.

`check_rule` compares a function that has a `jax.custom_vjp` with autodiff of the same function
without it, entry by entry and in units of rounding error, and under every transformation;
`assert_rule` is the same as one line of a test. `check_optimizer` compares two optimizers step by
step and names the first divergence with its likely cause. `numerical_vjp`, `grad_check_sparse` and
`eval_numerical_gradient` are differences, for functions without a plain twin.

>>> import jax, jax.numpy as jnp
>>> @jax.custom_vjp
... def mean_square(x):
...     return jnp.mean(x**2)
>>> def forward(x):
...     return jnp.mean(x**2), x
>>> def backward(x, cotangent):
...     return (2 * x * cotangent,)  # the 1/N of the mean is forgotten
>>> mean_square.defvjp(forward, backward)
>>> report = check_rule(mean_square, jnp.array([1.0, -2.0, 0.5, 3.0]), checks=["cotangent"])
>>> report.failed[0].where, report.failed[0].likely
('x[3]', 'a factor of 4, the length of axis 0 of x: a missing mean (1/4 is forgotten)')
"""

from funcnet._homes import at_home
from funcnet._reports import Check, RuleError
from funcnet.checks._check_optimizer import OPTIMIZER_CHECKS, check_optimizer
from funcnet.checks._check_rule import (
    RULE_CHECKS,
    assert_rule,
    check_rule,
    check_sharding,
    detection_threshold,
)
from funcnet.checks._detection import Detection
from funcnet.checks._expected import Pullback
from funcnet.checks._foreign_optimizers import (
    EagerOptimizer,
    as_optimizer,
    keras_optimizer,
    torch_optimizer,
)
from funcnet.checks._numerical import (
    SparseGradCheck,
    eval_numerical_gradient,
    grad_check_sparse,
    numerical_vjp,
    rel_error,
)
from funcnet.checks._reports import (
    VERDICTS,
    OptimizerReport,
    ResumeReport,
    RuleReport,
    StepReport,
    Verdict,
)
from funcnet.checks._resume import check_resume
from funcnet.checks._rules import without_rules
from funcnet.checks._step import STEP_CHECKS, check_step
from funcnet.train.contract import StepError

__all__ = [
    "OPTIMIZER_CHECKS",
    "RULE_CHECKS",
    "STEP_CHECKS",
    "VERDICTS",
    "Check",
    "Detection",
    "EagerOptimizer",
    "OptimizerReport",
    "Pullback",
    "ResumeReport",
    "RuleError",
    "RuleReport",
    "SparseGradCheck",
    "StepError",
    "StepReport",
    "Verdict",
    "as_optimizer",
    "assert_rule",
    "check_optimizer",
    "check_resume",
    "check_rule",
    "check_sharding",
    "check_step",
    "detection_threshold",
    "eval_numerical_gradient",
    "grad_check_sparse",
    "keras_optimizer",
    "numerical_vjp",
    "rel_error",
    "torch_optimizer",
    "without_rules",
]

at_home(globals())
