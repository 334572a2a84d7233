"""One row a rule: what is known of it, said once, for tests, checks, benchmarks and docs.

`ROWS` maps the name of each rule to its `Row`. A rule of the package without a row fails the tests.
"""

from funcnet._homes import at_home
from funcnet.catalogue import _activations, _fused, _linear, _losses, _norms, _pools
from funcnet.catalogue._bench import BenchCase
from funcnet.catalogue._row import Case, Refusal, Row, Sample

__all__ = ["ROWS", "BenchCase", "Case", "Refusal", "Row", "Sample"]

ROWS: dict[str, Row] = {
    row.name: row
    for family in (_activations, _linear, _pools, _norms, _fused, _losses)
    for row in family.ROWS
}
"""The rows of all rules, by name."""

at_home(globals())
