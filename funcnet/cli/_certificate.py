"""The certificate of a row of the catalogue: `checks.check_rule` told what the row knows."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from funcnet import checks
from funcnet.catalogue import ROWS, Row, Sample
from funcnet.cli._command import CommandError

DEVICES = 8


def certify(row: Row, index: int = 0, seed: int = 0, **options: Any) -> checks.RuleReport:
    """Checks one sample of a row, with its twin, reduction length, residual bytes and batch.

    Args:
      row: a row of `catalogue.ROWS`.
      index: which of its samples.
      seed: what the sample and the cotangents are drawn from.
      **options: further options of `checks.check_rule`.
    """
    sample = row.samples(np.random.default_rng(seed))[index]
    known: dict[str, Any] = {
        "name": row.name if index == 0 else f"{row.name}/{index}",
        "plain": row.plain,
        "static": sample.static,
        "skip": sample.skip,
        "seed": seed,
        "reduction": max(1, row.reduction(sample)),
        "residual_bytes": row.residual_bytes(sample, 8),
        "smooth": row.smooth,
        "rows_independent": True if row.batch is not None else None,
        "batch_axis": 0 if _has_batch(row, sample) else None,
    }
    if row.batch is not None:
        known["batch_argnums"] = [i for i, axis in enumerate(row.batch) if axis is not None]
    with jax.enable_x64(True):  # samples, and the bytes that are declared, are of float64
        return checks.check_rule(row.function, *sample.args, **{**known, **options})


def certify_spread(row: Row, devices: int = DEVICES, seed: int = 0) -> checks.RuleReport:
    """Checks the first sample of a row, with eight rows a device, over 2 and more devices.

    Args:
      row: a row of `catalogue.ROWS`.
      devices: how many to go up to, by powers of two; the process has so many.
      seed: what the sample and the cotangents are drawn from.
    """
    rng = np.random.default_rng(seed)
    sample, cut = row.enlarged(row.samples(rng)[0], 8 * devices, rng)
    return checks.check_sharding(
        row.function,
        *sample.args,
        devices=devices,
        plain=row.plain,
        static=sample.static,
        name=row.name,
        seed=seed,
        reduction=max(1, row.reduction(sample)),
        batch_argnums=cut,
    )


def _has_batch(row: Row, sample: Sample) -> bool:
    return row.batch is not None or row.single == "is refused" or row.empty == "is refused"


def with_meshes(reports: Sequence[checks.RuleReport], seed: int) -> list[checks.RuleReport]:
    """The reports of rows, each with the checks of `certify_spread` of the row behind its own.

    They run in a process of its own, which has as many virtual devices of its CPU.

    Args:
      reports: those of rows' first samples; others stay what they are.
      seed: as in `certify`.

    Raises:
      CommandError: the process failed.
    """
    names = [report.name for report in reports if report.name in ROWS]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(seed), *names],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise CommandError(f"the process of {DEVICES} devices failed: {last}", code=1)
    found = {data["name"]: checks.RuleReport.from_dict(data) for data in json.loads(done.stdout)}
    return [
        _joined(report, found[report.name]) if report.name in found else report
        for report in reports
    ]


def _joined(report: checks.RuleReport, spread: checks.RuleReport) -> checks.RuleReport:
    return dataclasses.replace(
        report,
        checks=(*report.checks, *spread.checks),
        notes=(*report.notes, *(note for note in spread.notes if note.startswith("sharding/"))),
        verdict="wrong" if spread.failed else report.verdict,
        seconds=report.seconds + spread.seconds,
    )


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", DEVICES)
    SEED, *NAMES = sys.argv[1:]
    REPORTS = [certify_spread(ROWS[name], seed=int(SEED)) for name in NAMES]
    print(json.dumps([report.to_dict() for report in REPORTS]))
