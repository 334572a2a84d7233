"""Nets over eight devices: after several Adam steps they are what one device makes of them."""

from __future__ import annotations

import json

import pytest

from funcnet import _machine
from tests.support.mesh_runs import CASES, NETS
from tests.support.processes import python

QUICK = ("batch_norm/auto/data", "batch_norm/explicit/fsdp")
REST = [case for case in CASES if case not in QUICK]
TOLERANCE = 1e-12  # of a leaf's largest number: 4500 eps, after ten steps
# Adam divides gradients by their size, and some are near 0: other orders of the same rows on one
# device move its parameters by as much.
LOOSER = {"resnet": 1e-11}


def cases():
    yield pytest.param(QUICK, id="quick")
    for net in NETS:
        rest = [case for case in REST if case.startswith(f"{net}/")]
        yield pytest.param(rest, id=net, marks=pytest.mark.slow)


@pytest.mark.integration
@pytest.mark.parametrize("chosen", [*cases()])
def test_eight_devices_give_what_one_gives(chosen):
    """Data parallel, with parameters in parts (FSDP), tensor parallel, and 4 by 2 of both.

    Every leaf of parameters, statistics and the optimizer's state, and every loss.
    """
    flags = _machine.quick_compile_flags()
    found = json.loads(python("-m", "tests.support.mesh_runs", *chosen, XLA_FLAGS=flags))
    assert list(found) == list(chosen)
    for case, run in found.items():
        net, kind, way = case.split("/")
        far = {name: off for name, off in run["off"].items() if off > LOOSER.get(net, TOLERANCE)}
        assert not far, (case, far)
        assert run["unlike"] == 0, f"{case}: devices have other numbers for the same part"
        if kind == "explicit" or way == "data":
            assert run["moved"] == 0, f"{case}: the step changed where parameters lie"
        sent, size = run["sent"], run["bytes"]
        assert "all-reduce" in sent, case
        if way == "data":  # each gradient is added up once, beside statistics and metrics
            assert set(sent) == {"all-reduce"}, case
            assert size <= sent["all-reduce"][1] <= 1.1 * size, (case, sent, size)
        if way == "fsdp":
            assert "all-gather" in sent, case
        if net == "batch_norm":  # the test can fail: with each share's statistics
            assert run["of shares"] > 1e-3
