"""A rule with its batch over several devices, in the ways that JAX has, against plain on one."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from funcnet._reports import Check, sentence
from funcnet.checks import _comparison as cmp
from funcnet.checks._arguments import is_floating
from funcnet.checks._collectives import collectives, words
from funcnet.checks._problem import Problem
from funcnet.checks._programs import NotApplicableError, quick_jit
from funcnet.checks._rule_checks import compared
from funcnet.checks._rule_inputs import batch_arguments
from funcnet.kernels import as_cotangent

KINDS = ("auto", "explicit", "shard_map")
_AXIS = "batch"
_OTHERWISE = "is laid out otherwise than its argument"


def sharding_counts(p: Problem, most: int) -> list[int]:
    """The numbers of devices that divide the batch; all powers of two where there is none."""
    _, size = _batch(p)
    counts = [n for n in (2, 4, 8, 16, 32) if n <= most and size % n == 0]
    if not counts:
        raise ValueError(
            f"check_sharding: the batch has {size} rows, expected a multiple of 2; give sample "
            f"arguments with {most} rows."
        )
    return counts


def sharding_checks(devices: Sequence[Any]) -> Mapping[str, Callable[[Problem], Check]]:
    """The checks of a rule over these devices, by their names, one for each of `KINDS`."""
    names = {kind: f"sharding/{len(devices)}/{kind}" for kind in KINDS}
    return {
        name: functools.partial(_checked, name=name, kind=kind, devices=devices)
        for kind, name in names.items()
    }


def sharding_notes(checks: Iterable[Check]) -> list[str]:
    """What is right and costs: a compiled program that gathers, or lays gradients out anew."""
    odd = ("all-gather", _OTHERWISE)
    return [
        f"{check.name}: the compiled program has {check.message}"
        for check in checks
        if check.passed
        and check.name.startswith("sharding/")
        and any(w in check.message for w in odd)
    ]


def _batch(p: Problem) -> tuple[list[int], int]:
    """The arguments with a batch and its size; none and 0 for a rule without one."""
    try:
        return batch_arguments(p)
    except NotApplicableError:
        return [], 0


def _checked(p: Problem, *, name: str, kind: str, devices: Sequence[Any]) -> Check:
    chosen, size = _batch(p)
    if size % len(devices):
        raise NotApplicableError(
            f"the batch has {size} rows, no multiple of {len(devices)} devices"
        )
    axis_type = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(axis_type,))
    of = _InShardMap if kind == "shard_map" else _OnMesh
    spread = of(p, mesh, chosen, size)
    try:
        got, found = spread.run(p.f)
    except Exception as error:
        try:
            spread.run(p.plain)
        except Exception as other:
            reason = f"the plain function cannot be spread so: {sentence(other, 200)}"
            raise NotApplicableError(reason) from None
        return Check(name, False, _mended(error))
    names, want, units = spread.truth(name)
    where = "in shard_map" if kind == "shard_map" else f"on {kind} axes"
    way = f"over {len(devices)} devices, {where}, "
    return compared(name, names, got, want, units, p.c(name), good=found, what=way)


def _mended(error: Exception) -> str:
    """What an exception says that JAX raised where the plain function works, and how to mend it."""
    text = sentence(error, 600)
    types = re.search(
        r"bwd rule produced an output of type (.+?) corresponding to an input of type"
        r" (.+?), so",
        text,
    )
    if types:
        return (
            f"the backward pass returns a cotangent of type {types[1]} for an argument of type "
            f"{types[2]}: return kernels.as_cotangent(value, primal) for each, which sums it over "
            "the devices that its argument does not vary over"
        )
    if type(error).__name__ == "ShardingTypeError":
        return (
            f"raised {sentence(error, 160)}: on explicit axes a rule says how its products lie, as "
            "kernels.matmul_tn and its sisters do, or with out_sharding=; then return "
            "kernels.as_cotangent(value, primal), which lies as its argument does"
        )
    return f"raised {sentence(error)}"


class _Spread:
    """A rule's arguments over the devices of a mesh, those with a batch cut along it."""

    def __init__(self, p: Problem, mesh: Mesh, chosen: Sequence[int], size: int):
        self.p, self.mesh, self.size = p, mesh, size
        self.count = mesh.size
        self.cut_diff = [p.argument[i] in chosen for i in p.where_diff]
        self.cut_rest = [p.argument[i] in chosen for i in p.where_rest]
        self.has_batch = bool(chosen)
        self.grads = [f"gradient of {name}" for name in p.diff_names]

    @functools.cached_property
    def diff(self) -> list[Any]:
        return [
            self.placed(x, cut) for x, cut in zip(self.p.smooth.diff, self.cut_diff, strict=True)
        ]

    @functools.cached_property
    def rest(self) -> list[Any]:
        leaves = self.p.rest_in(self.p.dtype)
        return [self.placed(x, cut) for x, cut in zip(leaves, self.cut_rest, strict=True)]

    def placed(self, leaf: Any, cut: bool) -> Any:
        return jax.device_put(jnp.asarray(leaf), NamedSharding(self.mesh, _spec(cut)))

    def run(self, fun: Callable) -> tuple[list[Any], str]:
        """Values and gradients of a function, and a word on its program."""
        raise NotImplementedError

    def truth(self, name: str) -> tuple[list[str], list[Any], list[float]]:
        """The names of what `run` gives, what the plain function gives, and its units of error."""
        raise NotImplementedError


def _spec(cut: bool) -> PartitionSpec:
    return PartitionSpec(_AXIS) if cut else PartitionSpec()


class _OnMesh(_Spread):
    """The program of one device, which XLA spreads; the truth is plain on one device."""

    def run(self, fun: Callable) -> tuple[list[Any], str]:
        p, row = self.p, self.p.rows.random[0]
        cts = [
            self.placed(ct, self.has_batch and ct.ndim > 0 and ct.shape[0] == self.size)
            for ct in p.cotangent(row)
        ]

        def both(diff: Any, rest: Any, cts: Any) -> Any:
            outputs, pull, _ = p.vjp(fun, diff, rest)
            return list(outputs), pull([*map(as_cotangent, cts, outputs)])

        compiled = jax.jit(both).lower(self.diff, self.rest, cts).compile()
        outputs, grads = compiled(self.diff, self.rest, cts)
        found = words(collectives(compiled.as_text() or ""))
        for name, x, dx, cut in zip(self.grads, self.diff, grads, self.cut_diff, strict=True):
            if cut and not dx.sharding.is_equivalent_to(x.sharding, x.ndim):
                found += f"; the {name} {_OTHERWISE}"
        return jax.device_get([*outputs, *grads]), found

    def truth(self, name: str) -> tuple[list[str], list[Any], list[float]]:
        a, row = self.p.smooth, self.p.rows.random[0]
        units = self.p.units(name, [*a.value_scales, *a.grad_scales])
        want = [*a.expected.value, *(g[row] for g in a.expected.grads)]
        return [*self.p.out_names, *self.grads], want, units


class _InShardMap(_Spread):
    """The program of each device; the truth is plain on the rows of each, one after the other.

    Outputs have an axis of devices in front; gradients of what is replicated are summed over it.
    """

    @functools.cached_property
    def cotangents(self) -> list[np.ndarray]:
        def local(x: Any, cut: bool) -> Any:
            shape = (x.shape[0] // self.count, *x.shape[1:]) if cut else x.shape
            return jax.ShapeDtypeStruct(shape, x.dtype)

        shapes = jax.eval_shape(
            lambda d, r: self.p.call(self.p.plain, d, r)[0],
            [*map(local, self.diff, self.cut_diff)],
            [*map(local, self.rest, self.cut_rest)],
        )
        rng = np.random.default_rng(self.p.seed)

        def draw(shape: Any, dtype: Any) -> np.ndarray:
            real = rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 2.0, shape)
            both = real + 1j * rng.choice([-1.0, 1.0], shape) if dtype.kind == "c" else real
            return np.asarray(both, dtype)

        return [draw((self.count, *x.shape), np.dtype(x.dtype)) for x in shapes]

    def run(self, fun: Callable) -> tuple[list[Any], str]:
        p = self.p
        specs = [*map(_spec, self.cut_diff)], [*map(_spec, self.cut_rest)]
        outs = [_spec(True)] * len(self.cotangents)
        over = functools.partial(jax.shard_map, mesh=self.mesh, check_vma=True)

        def varying(*args: Any, **static: Any) -> Any:
            return jax.tree.map(_varying, fun(*args, **static))

        def inside(diff: Any, rest: Any, cts: Any) -> Any:
            outputs, pull, _ = p.vjp(varying, diff, rest)
            return [y[None] for y in outputs], pull([ct[0] for ct in cts])

        def value(diff: Any, rest: Any) -> Any:
            return [y[None] for y in p.call(varying, diff, rest)[0]]

        def both(diff: Any, rest: Any, cts: Any) -> Any:
            taken = over(inside, in_specs=(*specs, outs), out_specs=(outs, specs[0]))
            outputs, grads = taken(diff, rest, cts)
            around = over(value, in_specs=specs, out_specs=outs)
            _, pull = jax.vjp(lambda d: around(d, rest), diff)
            return [
                *outputs,
                *grads,
                *pull([ct.astype(y.dtype) for ct, y in zip(cts, outputs, strict=True)])[0],
            ]

        cts = [self.placed(ct, True) for ct in self.cotangents]
        got = jax.device_get(quick_jit(both)(self.diff, self.rest, cts))
        return got, "its gradient taken inside and around"

    def truth(self, name: str) -> tuple[list[str], list[Any], list[float]]:
        p = self.p
        if p.way == "differences":
            raise NotApplicableError("differences of the values do not judge each device's part")
        program = quick_jit(self._device_by_device)
        rng = np.random.default_rng(p.seed)
        diff, rest = p.wide(p.smooth.diff), p.rest_in(p.truth)

        def at(step: float) -> list[Any]:
            near = [cmp.perturbed(x, step, rng).astype(x.dtype) if step else x for x in diff]
            cts = [cmp.perturbed(ct, step, rng) for ct in self.cotangents]
            return jax.device_get(program(near, rest, cts))

        want = at(0.0)
        moved = cmp.moves([at(p.sensitivity_step) for _ in range(2)], want)
        noise = cmp.moves([at(p.noise_step) for _ in range(2)], want)
        scales = []
        for part in (slice(len(p.out_names)), slice(len(p.out_names), None)):
            sensitivity = [m / p.sensitivity_step for m in moved[part]]
            largest = [*map(cmp.largest, want[part])]
            scales += cmp.scales(largest, sensitivity, noise[part], p.k, p.eps)
        names = [*p.out_names, *self.grads, *(f"{n}, taken around" for n in self.grads)]
        grads = len(self.grads)
        return names, [*want, *want[-grads:]], p.units(name, [*scales, *scales[-grads:]])

    def _device_by_device(self, diff: Any, rest: Any, cts: Any) -> list[Any]:
        def parts(leaves: Any, cuts: Any) -> list[Any]:
            return [
                x.reshape(self.count, x.shape[0] // self.count, *x.shape[1:])
                for x, cut in zip(leaves, cuts, strict=True)
                if cut
            ]

        def filled(leaves: Any, cuts: Any, own: Any) -> list[Any]:
            own = iter(own)
            return [next(own) if cut else x for x, cut in zip(leaves, cuts, strict=True)]

        def one(own: Any) -> Any:
            d, r = filled(diff, self.cut_diff, own[0]), filled(rest, self.cut_rest, own[1])
            outputs, pull, _ = self.p.truth_vjp(d, r)
            return list(outputs), pull(own[2])

        own = (
            parts(map(jnp.asarray, diff), self.cut_diff),
            parts(map(jnp.asarray, rest), self.cut_rest),
        )
        outputs, grads = lax.map(one, (*own, [*map(jnp.asarray, cts)]))
        grads = [
            g.reshape(x.shape) if cut else g.sum(0)
            for x, g, cut in zip(diff, grads, self.cut_diff, strict=True)
        ]
        return [*outputs, *grads]


def _varying(leaf: Any) -> Any:
    """A floating output that varies over the devices, whatever it is made of."""
    if not hasattr(leaf, "dtype") or not is_floating(leaf):
        return leaf
    leaf = jnp.asarray(leaf)
    if _AXIS in jax.typeof(leaf).manual_axis_type.varying:
        return leaf
    return lax.pcast(leaf, _AXIS, to="varying")
