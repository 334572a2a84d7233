"""The certificate of a row of the catalogue: `checks.check_rule` told what the row knows."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from funcnet import checks
from funcnet.catalogue import Row, Sample


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


def certify_spread(row: Row, devices: int = 8, seed: int = 0) -> checks.RuleReport:
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
