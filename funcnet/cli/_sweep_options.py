"""The options of `funcnet sweep`, and the sweeps that they stand for."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from types import GenericAlias
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import numpy as np
import tyro

from funcnet import sweep
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError, choice, option
from funcnet.cli._train_options import (
    DataOptions,
    NetOptions,
    OptimizerOptions,
    Options,
    TrainingOptions,
    flag,
)
from funcnet.sweep import HOWS

# Options of names, of which each combination is a sweep of its own.
_NAMES = {"net": ("name", "norm", "activation"), "optimizer": ("name",), "training": ("loss",)}
_EACH = {*itertools.chain(*_NAMES.values())}


def _traced(group: type) -> set[str]:
    """The numbers among the options of a group that may be traced, and so swept."""
    numbers = {name for name, kind in get_type_hints(group).items() if float in get_args(kind)}
    return numbers - {"lr_decay", "dropout", "label_smoothing"}  # which shape the program


def _several(group: type) -> type:
    """Lets each name, and each number that may be traced, be several."""
    parent: Any = group.__base__
    numbers = _traced(parent)
    for name in numbers | _EACH & get_type_hints(parent).keys():
        # Names are evaluated with each command line, as the parent's: a registry may have grown.
        late = f"_column({parent.__name__}, {name!r})"
        group.__annotations__[name] = _column(parent, name) if name in numbers else late
        setattr(group, name, None)
    return group


def _column(parent: type, name: str) -> Any:
    """The type of an option that may be several, with the help of `funcnet train`."""
    kinds, *said = get_args(get_type_hints(parent, include_extras=True)[name])
    one = functools.reduce(operator.or_, (k for k in get_args(kinds) if k is not type(None)))
    choices = [it for it in said if isinstance(it, tyro.constructors.PrimitiveConstructorSpec)]
    if choices:
        one, said = Annotated[(one, *choices)], [it for it in said if it not in choices]
    several: Any = GenericAlias(tuple, (one, ...))
    return Annotated[(several | None, *said)]


@dataclasses.dataclass(frozen=True)
@_several
class SweptNet(NetOptions):
    """The function; several names are compared. The scale of its weights: numbers, or he alone."""


@dataclasses.dataclass(frozen=True)
@_several
class SweptOptimizer(OptimizerOptions):
    """The rule of the update; several are compared, each with the numbers that it has."""


@dataclasses.dataclass(frozen=True)
@_several
class SweptTraining(TrainingOptions):
    """How each member is trained; several numbers are swept."""

    seed: Annotated[int | None, option("0")] = None
    """First of the members' seeds, 0 to 2^32 - 1."""


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Which members there are, and how they are run."""

    seeds: int = 1
    """Seeds for each row of values."""
    random: Annotated[int | None, option("every combination")] = None
    """Rows of values drawn at random: from the ranges, and from what takes several numbers."""
    learning_rate_range: Annotated[tuple[float, float] | None, option("none")] = None
    """Lowest and highest learning rate of --random, as many in each decade."""
    reg_range: Annotated[tuple[float, float] | None, option("none")] = None
    """The same for the L2 penalty."""
    weight_scale_range: Annotated[tuple[float, float] | None, option("none")] = None
    """The same for the standard deviation of the initial weights."""
    weight_decay_range: Annotated[tuple[float, float] | None, option("none")] = None
    """The same for the decoupled weight decay."""
    random_seed: int = 0
    """Seed of the draws of --random."""
    how: Annotated[str, choice(("measure", *HOWS))] = "measure"
    """One program for all members, by jax.vmap, jax.lax.map or a loop; measure asks the machine."""
    members_at_once: Annotated[int | None, option("all")] = None
    """Members that vmap and map hold in memory, and finish, together."""


@dataclasses.dataclass(frozen=True)
class SweepOutput:
    """What is left behind."""

    out: Annotated[str | None, option("runs/sweep-DATA-NET-TIME")] = None
    """Folder for members, ranking and figure. Where it holds the same sweep, begun, the members
    that are missing are run."""
    quiet: bool = False
    """Print errors only."""
    traceback: bool = False
    """Show where an error came from; FUNCNET_TRACEBACK=1 does the same."""


class Said(NamedTuple):
    """All options that a sweep's numbers depend on, as they were given."""

    data: DataOptions
    net: SweptNet
    optimizer: SweptOptimizer
    training: SweptTraining
    search: SearchOptions

    def each(self) -> list[tuple[dict[str, str | None], Said]]:
        """The sweeps: each combination of names, those of several first, and what is said of it.

        A combination has a name for each option of names, and those options alone that belong to
        its net, optimizer and loss; where that makes two the same, they are one.
        """
        lists: dict[tuple[str, str], tuple[Any, ...]] = {}
        for kind, name in ((kind, name) for kind, names in _NAMES.items() for name in names):
            given = getattr(getattr(self, kind), name)
            if given == ():
                raise CommandError(f"{_flag(kind, name)} has no value, expected one or more.")
            lists[kind, name] = tuple(dict.fromkeys(given or (None,)))
        found: list[tuple[dict[str, str | None], Said]] = []
        for values in itertools.product(*lists.values()):
            one = self
            for (kind, name), value in zip(lists, values, strict=True):
                one = one._with(kind, **{name: value and (value,)})
            for kind, (name, *_) in _NAMES.items():
                if len(lists[kind, name]) > 1:
                    one = one._fitting(kind, name, lists[kind, name])
            names = {
                _flag(kind, name)[2:]: one._only(kind, name)
                for (kind, name), several in lists.items()
                if len(several) > 1
            }
            if (names, one) not in found:
                found.append((names, one))
        return found

    def _only(self, kind: str, name: str) -> str | None:
        """The one name that is left of an option of names, None where none was given."""
        (only,) = getattr(getattr(self, kind), name) or (None,)
        return only

    def _with(self, kind: str, **values: Any) -> Said:
        """The same with other values in a group."""
        return self._replace(**{kind: dataclasses.replace(getattr(self, kind), **values)})

    def _fitting(self, kind: str, name: str, names: tuple[str, ...]) -> Said:
        """The same without what its net, optimizer or loss does not have, and another of them has.

        Raises CommandError where none has it.
        """
        own, one = self._only(kind, name), self
        ranges, group = self.ranges(), getattr(self, kind)
        for asked in (field.name for field in dataclasses.fields(group) if field.name != name):
            if getattr(group, asked) is None and asked not in ranges:
                continue
            takers = [other for other in names if _takes(kind, other, asked)]
            if not takers:
                raise CommandError(
                    f"{flag(asked)} is no option of {_flag(kind, name)} {' '.join(names)}, "
                    "expected one that at least one of them has."
                )
            if own not in takers:
                one = one._with(kind, **{asked: None})
                if asked in ranges:
                    one = one._with("search", **{f"{asked}_range": None})
        if one.search.random is not None and one != self and not (one._lists() or one.ranges()):
            one = one._with("search", random=None)  # a single row is left
        return one

    def options(self) -> Options:
        """The options of one member, those that are swept with their first value."""

        def first(value: Any, name: str) -> Any:
            if name not in SWEPT | _EACH or not isinstance(value, tuple):
                return value
            if not value:
                raise CommandError(f"{flag(name)} has no value, expected one or more.")
            return value[0]

        parents: Any = (DataOptions, NetOptions, OptimizerOptions, TrainingOptions)
        groups: Any = (self.data, self.net, self.optimizer, self.training)
        plain = [
            parent(**{name: first(value, name) for name, value in vars(group).items()})
            for parent, group in zip(parents, groups, strict=True)
        ]
        ranges = {name: low for name, (low, _) in self.ranges().items()}
        for index, group in enumerate(plain):
            own = {name: low for name, low in ranges.items() if hasattr(group, name)}
            plain[index] = dataclasses.replace(group, **own)
        return Options(*plain)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The ranges to draw from, by the names of their options."""
        suffix = "_range"
        named = {k.removesuffix(suffix): v for k, v in vars(self.search).items() if suffix in k}
        return {name: value for name, value in named.items() if value is not None}

    def _lists(self) -> dict[str, Any]:
        """The options of several numbers."""
        ranges = self.ranges()
        lists: dict[str, Any] = {}
        for group in (self.net, self.optimizer, self.training):
            for name in SWEPT & vars(group).keys():
                value = getattr(group, name) or ()
                if len(value) > 1 and "he" in value:
                    raise CommandError(f"{flag(name)} is he beside numbers, expected it alone.")
                if value and name in ranges:
                    raise CommandError(f"{flag(name)} and {flag(name)}-range are both given.")
                if len(value) > 1:
                    lists[name] = value
        return {name: lists[name] for name in sorted(lists)}

    def columns(self) -> dict[str, np.ndarray]:
        """The values that are swept, a row for each combination or draw."""
        search, ranges = self.search, self.ranges()
        if search.seeds < 1:
            raise CommandError(f"--seeds is {search.seeds}, expected a number of at least 1.")
        if (self.training.seed or 0) + search.seeds > 2**32:
            raise CommandError(
                f"--seed is {self.training.seed} and --seeds {search.seeds}: the last member's "
                "seed would be above 2^32 - 1."
            )
        if not 0 <= search.random_seed < 2**32:
            raise CommandError(
                f"--random-seed is {search.random_seed}, expected a number from 0 to 2^32 - 1."
            )
        lists = self._lists()
        if search.random is None:
            if ranges:
                name = flag(next(iter(ranges)))
                raise CommandError(f"{name}-range is an option of --random alone.")
            return sweep.grid(**lists)
        if search.random < 1 or not (lists or ranges):
            raise CommandError(
                f"--random is {search.random}, expected at least 1 row, and a range to draw from, "
                "such as --learning-rate-range 1e-4 1e-2."
            )
        rng = np.random.default_rng(search.random_seed)
        drawn = {name: rng.choice(value, search.random) for name, value in lists.items()}
        for name, (low, high) in ranges.items():
            try:
                drawn[name] = sweep.log_uniform(rng, low, high, search.random)
            except (ValueError, OverflowError):
                raise CommandError(
                    f"{flag(name)}-range is {low} {high}, expected two numbers above 0, the lower "
                    "one first."
                ) from None
        return drawn


def _takes(kind: str, name: str, option: str) -> bool:
    """Whether a net, an optimizer or a loss has an option of its group."""
    if kind == "training":
        return option != "label_smoothing" or name == "softmax"
    return settings.takes(kind, name, option)


def _flag(kind: str, name: str) -> str:
    """An option of names as it is written on the command line."""
    return flag(kind if name == "name" else name)


SWEPT = _traced(NetOptions) | _traced(OptimizerOptions) | _traced(TrainingOptions)
