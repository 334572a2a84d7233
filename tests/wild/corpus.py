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

from tests.wild import algebra, jax_itself, networks, optimisation, physics, probability
from tests.wild.entries import Wild

WILD: list[Wild] = [
    *jax_itself.wild,
    *optimisation.wild,
    *networks.wild,
    *probability.wild,
    *algebra.wild,
    *physics.wild,
]
