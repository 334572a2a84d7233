"""The scorecard of rules: funcnet's against autodiff of the plain twin, and against the peers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from funcnet.bench import _programs
from funcnet.bench._programs import DEFAULT_VARIANTS, PASSES, Arguments, Program, Variant
from funcnet.bench._settings import Budget, Progress, ceilings, selection, silent, torch_if
from funcnet.bench._timing import Timing, interleaved
from funcnet.bench._torch import Torch, TorchError
from funcnet.bench.peers import JAX_PEERS, Layout, Peer, choose
from funcnet.bench.results import BFLOAT16, Ceilings, Contender, Report, Result, report
from funcnet.catalogue import ROWS, BenchCase


def rules(
    only: Iterable[str] | None = None,
    *,
    cases: Mapping[str, Sequence[BenchCase]] | None = None,
    variants: Sequence[Variant] = DEFAULT_VARIANTS,
    peers: Iterable[str] | None = None,
    quick: bool = False,
    seconds: int | float | None = None,
    limits: Ceilings | None = None,
    on_progress: Progress = silent,
) -> Report:
    r"""Measures rules: time, memory and compile time, beside autodiff of their plain twins.

    Forward and backward is one compiled program that returns the outputs and, for a fixed random
    cotangent, the gradients of all arguments that are floats. All JAX sides take turns call by call
    in this process; torch has one of its own, in float32 and, for products and convolutions, under
    bfloat16 autocast, and the better of its two layouts counts for each. Results are compared
    before the clock starts; where they differ, the notes of the result say so.

    Args:
      only: names of rules; all of the catalogue by default.
      cases: rule -> shapes to measure instead of those of its row in the catalogue.
      variants: ways to run funcnet's rules, each a contender; ratios are of the first.
      peers: some of "flax", "equinox" and "torch"; those installed by default.
      quick: one case a rule, and short budgets.
      seconds: how long to time each call; 1 by default, 0.1 with `quick`.
      limits: the machine's ceilings; measured by default.
      on_progress: called with (done, total, label) before each case.

    Returns:
      The `Report`.

    Raises:
      ValueError: there is no such rule or peer, or no variant.

    >>> from funcnet.catalogue import BenchCase
    >>> case = BenchCase("rows", lambda rng: (rng.normal(size=(8, 9)).astype(np.float32),))
    >>> found = rules(["relu"], cases={"relu": [case]}, peers=(), seconds=1e-3,
    ...               limits=Ceilings(1e9, 1e9))
    >>> [c.name for c in found.results[0].contenders]
    ['funcnet', 'autodiff']
    """
    if not variants:
        raise ValueError("rules: variants is empty, expected at least one.")
    names = selection("rules", ROWS, only)
    there, missing = choose(peers, ("flax", "equinox", "torch"))
    budget = Budget.of(quick, seconds)
    table = {name: ROWS[name].bench for name in names} | dict(cases or {})
    jobs = [(name, case) for name in names for case in (table[name][:1] if quick else table[name])]
    limits = limits or ceilings(budget.seconds)
    results = []
    with torch_if("torch" in there) as torch:
        for number, (name, case) in enumerate(jobs):
            on_progress(number, len(jobs), f"{name} {case.label}")
            results.append(_measure(name, case, variants, there, torch, budget))
        said = () if torch is None else torch.notes
    on_progress(len(jobs), len(jobs), "")
    return report(results, limits, missing, _programs.notes() + said)


def _measure(
    name: str,
    case: BenchCase,
    variants: Sequence[Variant],
    peers: Sequence[str],
    torch: Torch | None,
    budget: Budget,
) -> Result:
    row = ROWS[name]
    rule, plain = (partial(_with_static, f, case.static) for f in (row.function, row.plain))
    arguments = Arguments(case.arguments())
    cotangent = _programs.cotangents(plain, arguments)
    notes: list[str] = []
    programs: dict[str, Program] = {}
    residuals: dict[str, int] = {}
    for variant in variants:
        with _programs.traced_as(variant, alone=len(variants) == 1):
            programs[variant.name] = _programs.program(rule, arguments, cotangent)
            residuals[variant.name] = _programs.residual_bytes(rule, arguments)
    programs["autodiff"] = _programs.program(plain, arguments, cotangent)
    residuals["autodiff"] = _programs.residual_bytes(plain, arguments)
    truth = _answers(programs["autodiff"])
    for variant in variants:
        found = _programs.disagreement(_answers(programs[variant.name]), truth)
        if found:
            notes.append(f"{variant.name} disagrees with autodiff: {found}")
    outputs = len(cotangent)
    for peer in peers:
        if peer in JAX_PEERS:
            made = JAX_PEERS[peer](name, case.static)
            if made is None:
                continue
            try:
                programs[peer], answers = _by_peer(made, name, case, arguments, cotangent)
            except Exception as error:  # a peer of another version is no reason to stop
                notes.append(f"{peer} failed: {type(error).__name__}: {str(error)[:200]}")
                continue
            if made.comparable:
                notes += _compared(peer, answers, truth, outputs)
    samples = interleaved(
        {f"{who}|{which}": programs[who].calls[which] for who in programs for which in PASSES},
        budget.seconds,
        wait=jax.block_until_ready,
        least=budget.least,
    )
    contenders = [
        Contender(
            who,
            {which: Timing.of(samples[f"{who}|{which}"]) for which in PASSES},
            programs[who].compile_seconds,
            residuals.get(who),
            programs[who].temporary_bytes,
        )
        for who in programs
    ]
    if torch is not None:
        try:
            found_there = torch.rule(name, case, cotangent[0], budget.seconds, budget.least)
        except TorchError as error:
            notes.append(f"torch failed: {error}")
        else:
            if found_there is not None:
                contenders += found_there[0]
                for side, answers in found_there[1].items() if name != "dropout" else ():
                    notes += _compared(side, answers, truth, outputs)
    flops, least_bytes = _programs.work(plain, arguments)
    return Result(
        "rules", name, case.label, tuple(contenders), flops, least_bytes, notes=tuple(notes)
    )


def _with_static(function: Any, static: dict[str, Any], *args: Any) -> Any:
    return function(*args, **static)


def _answers(program: Program) -> list[Any]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(program.calls["forward_backward"]())]


def _by_peer(
    peer: Peer, name: str, case: BenchCase, arguments: Arguments, cotangent: list[Any]
) -> tuple[Program, list[Any]]:
    """The peer's program, and its first output and its gradients in our layout."""
    if not peer.channels_first:
        program = _programs.program(peer.function, arguments, cotangent[:1])
        return program, _answers(program)
    args = case.arguments()
    layout = Layout(name, args)
    theirs = Arguments(tuple(layout.there(jax.tree.leaves(args))))
    ct = [layout.output_there(cotangent[0])]
    program = _programs.program(peer.function, theirs, ct)
    output, *gradients = _answers(program)
    back = [layout.back(g, i) for g, i in zip(gradients, theirs.where, strict=True)]
    return program, [layout.output_back(output), *back]


def _compared(who: str, answers: list[Any], truth: list[Any], outputs: int) -> list[str]:
    """A note where a peer's output or a gradient that it has differs."""
    within = _programs.BFLOAT16_TOLERANCE if who == BFLOAT16 else None
    expected = [truth[0], *truth[outputs:]]
    pairs = [(a, e) for a, e in zip(answers, expected, strict=True) if a is not None]
    found = _programs.disagreement([a for a, _ in pairs], [e for _, e in pairs], within)
    return [f"{who} disagrees with autodiff: {found}"] if found else []
