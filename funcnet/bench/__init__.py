r"""Scorecards: how long a rule takes, how much it keeps, and how it stands beside others.

`compare` times two functions of yours. `rules`, `steps` and `runs` are the library's own scorecard,
which `funcnet bench` prints: each rule of the catalogue against autodiff of its plain twin and
against the same layer of Flax, Equinox and torch; whole train steps and epochs. All sides take
turns call by call, results are compared before the clock starts, and times are medians with their
quartiles.

>>> from funcnet import bench, layers, plain
>>> x = jnp.ones((50, 40))
>>> found = bench.compare(layers.relu, plain.relu, x, seconds=0.01)
>>> found.disagreement is None, found.ratio > 0
(True, True)
"""

from funcnet._homes import at_home
from funcnet.bench._cases import RUNS, STEPS, Step
from funcnet.bench._programs import Comparison, Variant, compare, environment
from funcnet.bench._rules import rules
from funcnet.bench._runs import runs
from funcnet.bench._settings import ceilings
from funcnet.bench._steps import steps
from funcnet.bench._timing import Timing
from funcnet.bench.results import Ceilings, Contender, Machine, Report, Result
from funcnet.bench.tables import Slower, figure, slower, to_markdown

__all__ = [
    "RUNS",
    "STEPS",
    "Ceilings",
    "Comparison",
    "Contender",
    "Machine",
    "Report",
    "Result",
    "Slower",
    "Step",
    "Timing",
    "Variant",
    "ceilings",
    "compare",
    "environment",
    "figure",
    "rules",
    "runs",
    "slower",
    "steps",
    "to_markdown",
]

at_home(globals())
