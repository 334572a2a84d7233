r"""Course 004's theory, in numbers: do its bounds hold, and which function has it differentiated?

    python -m experiments.theory

Rows 4-1 to 4-10, float64; 40 s (two AVX-512 cores).

**4-1.** $w - g/\lambda$ is where a Newton step minimises the linearised and proximal model, to
2e-16 in 50 draws.

**4-2.** The lemma holds in 1203 runs, 200 of them with vectors that are nobody's gradients. What it
leaves out is $\lVert w_{T+1} - w^* \rVert^2 / (2 \eta)$: with that it is an equality, to 4e-15.

**4-3.** $f(\bar w) - f^* \le B \rho / \sqrt T$ held in all 1000 random problems of five families, T
= 10 to 10000: the gap was at most .735 of the bound. It cannot be improved: on Nemirovski and
Yudin's function the gap is the bound, to the last digit. Where the course writes $f(\bar w)$ equal
to the mean of $f(w_t)$ there is only Jensen's inequality: they differed by up to .54 of the bound.

**4-4.** From the optimum 1/2 one step on one term moves by 1.5 rate and raises the loss from 2.25
to 2.25 + (1.5 rate)^2. With a constant rate SGD then stays away from it, at a distance of
$1.5 \sqrt{\eta / (2 - \eta)}$ (root of the mean square), as measured to 2% for .5, .1 and .01. It
does not follow that SGD cannot converge: with rate 1/t it does, as $1.5 / \sqrt t$.

**4-5 to 4-9.** The printed numbers belong to $e^{w_2}$, to every digit; the course's algebra has
$e^{2 w_2}$, for which f1(1, 2) is 7.8e24. The Jacobian at (1, 2), for $e^{w_2}$:

| | df1/dw1 | df1/dw2 | df2/dw1 | df2/dw2 |
|---|---|---|---|---|
| closed form, forward mode and backward mode | 66656.39592 | 181190.8698 | 2.196611933 | 1 |
| differences, step .01, from the printed numbers | 67914.3018 | 189032.2573 | 2.196157061 | 1 |
| central differences, step eps^(1/3) | 66656.39593 | 181190.8701 | 2.196611933 | 1 |

A step of .01 is wrong by 4%. Can it be automated (4-9)? jacfwd and jacrev are a line each.

**4-10.** `order_or_cycle` is the proof as an algorithm: each of 2000 random graphs had either an
order (687) or a cycle (1313), each answer was verified edge by edge, and Python's graphlib agrees.
"""

from __future__ import annotations

import dataclasses
import graphlib
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments import _images, _study
from funcnet import plots

DIMENSIONS, PIECES = 20, 60


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """How many problems and graphs are drawn."""

    seeds: int = 50
    """Random problems of each family, for each number of steps."""
    steps: tuple[int, ...] = (10, 100, 1000, 10000)
    """Numbers of steps T of gradient descent."""
    graphs: int = 2000
    """Random graphs for which an order or a cycle is sought."""


# --- The rate of gradient descent: rows 4-1 to 4-3


def softened(z: Array) -> Array:
    """Returns log cosh z: a smooth absolute value, with slopes below 1."""
    return jnp.logaddexp(z, -z) - math.log(2)


# name -> f of z = A (w - w*); each is convex, even, and 0 at its minimum w*.
FAMILIES: dict[str, Callable[[Array], Array]] = {
    "mean of |z|": lambda z: jnp.abs(z).mean(),
    "max of |z|": lambda z: jnp.abs(z)[jnp.argmax(jnp.abs(z))],
    "length of z": lambda z: jnp.linalg.norm(z),
    "mean of log cosh z": lambda z: softened(z).mean(),
    "mean of the hinges of z": lambda z: jnp.maximum(jnp.abs(z) - 0.5, 0.0).mean(),
}


def descend(
    gradient: Callable[[Array], Array], start: Array, rate: Any, steps: int
) -> tuple[Array, Array, Array]:
    """Returns the last point, the points before each step (steps, d), and the gradients there."""

    def step(w: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        g = gradient(w)
        return w - rate * g, (w, g)

    last, (points, gradients) = lax.scan(step, start, None, length=steps)
    return last, points, gradients


@partial(jax.jit, static_argnames=("family", "steps"))
def random_problem(key: Array, family: str, steps: int) -> dict[str, Array]:
    """Gradient descent on one random problem of a family, and what the theory says of it."""
    keys = jax.random.split(key, 3)
    a = jax.random.normal(keys[0], (PIECES, DIMENSIONS))
    a = a * jnp.logspace(0, -2, DIMENSIONS)[None]  # some directions are a hundred times flatter
    direction = jax.random.normal(keys[1], (DIMENSIONS,))
    bound = 10 ** jax.random.uniform(keys[2], minval=-1, maxval=2)
    best = bound * direction / jnp.linalg.norm(direction)
    f = lambda w: FAMILIES[family](a @ (w - best))  # noqa: E731
    widest = jnp.linalg.norm(a, 2)
    slope = {  # a bound on the length of every gradient
        "max of |z|": jnp.linalg.norm(a, axis=1).max(),
        "length of z": widest,
    }.get(family, widest / math.sqrt(PIECES))
    return outcome(f, best, jnp.zeros(()), slope, steps)


@partial(jax.jit, static_argnames=("steps",))
def worst_problem(steps: int) -> dict[str, Array]:
    r"""$\max(\max_i w_i, \lVert w \rVert - 1 - 1/\sqrt T)$ in T dimensions, B = rho = 1.

    Each step lowers one coordinate, and the last is never seen: the mean has f = 0, and the minimum
    is $-1/\sqrt T$ (Nemirovski and Yudin's function). The second part keeps the minimum finite; at
    the points that are visited the first is the larger.
    """
    best = jnp.full(steps, -1 / math.sqrt(steps))

    def f(w: Array) -> Array:
        height = w[jnp.argmax(w)]  # of equal coordinates the first: one subgradient, not a mean
        square = jnp.square(w).sum()
        length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        return jnp.maximum(height, length - 1 - 1 / math.sqrt(steps))

    return outcome(f, best, f(best), jnp.ones(()), steps)


def outcome(
    f: Callable[[Array], Array], best: Array, minimum: Array, slope: Array, steps: int
) -> dict[str, Array]:
    """The gap that gradient descent leaves and its bound; both sides of the lemma; Jensen's gap."""
    length = jnp.linalg.norm(best)
    rate = length / (slope * math.sqrt(steps))
    last, points, gradients = descend(jax.grad(f), jnp.zeros_like(best), rate, steps)
    bound = length * slope / math.sqrt(steps)
    mean_of_values = jax.vmap(f)(points).mean()
    value_of_mean = f(points.mean(0))
    left, right = lemma(points, gradients, best, rate)
    rest = jnp.square(last - best).sum() / (2 * rate)  # what the lemma throws away
    return {
        "gap": (value_of_mean - minimum) / bound,
        "jensen": (mean_of_values - value_of_mean) / bound,
        "steepest": jnp.linalg.norm(gradients, axis=1).max() / slope,
        "lemma": left / right,
        "lemma_identity": jnp.abs(left + rest - right) / right,
    }


def lemma(points: Array, v: Array, best: Array, rate: Any) -> tuple[Array, Array]:
    """Both sides of row 4-2, for any vectors v (steps, d) and w' = w - rate v from w = 0."""
    left = ((points - best[None]) * v).sum()
    right = jnp.square(best).sum() / (2 * rate) + rate / 2 * jnp.square(v).sum()
    return left, right


@partial(jax.jit, static_argnames=("steps",))
def arbitrary_steps(key: Array, steps: int) -> dict[str, Array]:
    """The lemma for vectors that are nobody's gradient."""
    keys = jax.random.split(key, 3)
    v = jax.random.normal(keys[0], (steps, DIMENSIONS))
    best = jax.random.normal(keys[1], (DIMENSIONS,))
    rate = 10 ** jax.random.uniform(keys[2], minval=-4, maxval=1)
    ends = -rate * jnp.cumsum(v, 0)
    points = jnp.concatenate([jnp.zeros((1, DIMENSIONS)), ends[:-1]])
    left, right = lemma(points, v, best, rate)
    rest = jnp.square(ends[-1] - best).sum() / (2 * rate)
    return {"lemma": left / right, "lemma_identity": jnp.abs(left + rest - right) / right}


@jax.jit
def proximal(key: Array) -> dict[str, Array]:
    """Row 4-1: the minimiser of the linearised and proximal model, against one Newton step."""
    keys = jax.random.split(key, 3)
    w, g = (jax.random.normal(k, (DIMENSIONS,)) for k in keys[:2])
    strength = 10 ** jax.random.uniform(keys[2], minval=-3, maxval=3)

    def model(u: Array) -> Array:
        return (u - w) @ g + strength / 2 * jnp.square(u - w).sum()

    step = w - g / strength
    newton = w - jnp.linalg.solve(jax.hessian(model)(w), jax.grad(model)(w))  # exact: a quadratic
    return {
        "difference": jnp.abs(step - newton).max() / jnp.abs(newton).max(),
        "gradient_there": jnp.abs(jax.grad(model)(step)).max() / jnp.abs(g).max(),
    }


# --- SGD's counter-example: row 4-4


@partial(jax.jit, static_argnames=("steps",))
def counter_example(key: Array, rate: Any, power: Any, steps: int) -> Array:
    """Points of SGD on (w - 2)²/2 + (w + 1)²/2 from the optimum 1/2, a random term each step.

    The rate of step t is rate (t + 1)^-power.
    """
    centres = jnp.where(jax.random.bernoulli(key, 0.5, (steps,)), 2.0, -1.0)
    rates = rate * (jnp.arange(steps) + 1.0) ** -power

    def step(w: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        centre, eta = now
        return w - eta * (w - centre), w

    return lax.scan(step, jnp.asarray(0.5), (centres, rates))[1]


# --- The worksheet's function: rows 4-5 to 4-9


def worksheet(w: Array, factor: Any) -> Array:
    """(f1, f2) of (w1, w2); the course's algebra has factor 2, its numbers have factor 1."""
    return jnp.stack(functions(w[0], w[1], factor))


def functions(w1: Array, w2: Array, factor: Any) -> tuple[Array, Array]:
    """The same of two numbers."""
    u = jnp.exp(w1) + jnp.exp(factor * w2)
    return jnp.exp(u) + jnp.sin(u), w1 * w2 + lax.logistic(w1)


def closed_form(w: Array, factor: Any) -> Array:
    """The Jacobian as the course's algebra has it."""
    first, second = jnp.exp(w[0]), jnp.exp(factor * w[1])
    slope = jnp.exp(first + second) + jnp.cos(first + second)
    s = 1 / (1 + jnp.exp(-w[0]))
    return jnp.array([[first * slope, factor * second * slope], [w[1] + s * (1 - s), w[0]]])


def differences(f: Callable[[Array], Array], w: Array, h: float, central: bool) -> Array:
    """The Jacobian by differences; a central step is relative to the size of w."""
    columns = []
    for i in range(len(w)):
        size = jnp.maximum(jnp.abs(w[i]), 1.0) if central else 1.0
        step = jnp.zeros_like(w).at[i].set(h * size)
        behind = w - step if central else w
        columns.append((f(w + step) - f(behind)) / (w + step - behind)[i])
    return jnp.stack(columns, 1)


@jax.jit
def jacobians(factor: Any) -> dict[str, Array]:
    """The Jacobian at (1, 2) in five ways."""
    w, f = jnp.array([1.0, 2.0]), partial(worksheet, factor=factor)
    root = np.finfo(np.float64).eps ** (1 / 3)
    return {
        "closed form": closed_form(w, factor),
        "forward mode (jax.jacfwd)": jax.jacfwd(f)(w),
        "backward mode (jax.jacrev)": jax.jacrev(f)(w),
        "differences, forward, step 0.01": differences(f, w, 0.01, central=False),
        "differences, central, step eps^(1/3)": differences(f, w, root, central=True),
    }


PRINTED = {  # row 4-6
    "f1(1, 2)": 24521.662861313,
    "f2(1, 2)": 2.73105857863,
    "f1(1.01, 2)": 25200.8058793246,
    "f2(1.01, 2)": 2.75302014923886,
    "f1(1, 2.01)": 26411.9854338567,
    "f2(1, 2.01)": 2.74105857863,
}


def printed_values(factor: float) -> list[float]:
    """What the function gives where the course prints a number, in the order of `PRINTED`."""
    points = jnp.array([[1.0, 2.0], [1.01, 2.0], [1.0, 2.01]])
    return jax.vmap(partial(worksheet, factor=factor))(points).ravel().tolist()


# --- Graphs: rows 4-5 and 4-10

Node = Hashable
Edges = Iterable[tuple[Node, Node]]


class Order(NamedTuple):
    """Nodes such that each edge goes from an earlier one to a later one."""

    nodes: tuple[Node, ...]


class Cycle(NamedTuple):
    """Nodes such that there is an edge from each to the next, and from the last to the first."""

    nodes: tuple[Node, ...]


def order_or_cycle(nodes: Iterable[Node], edges: Edges) -> Order | Cycle:
    """Kahn's algorithm, which proves row 4-10: a graph has an order or a cycle, never both.

    It takes away nodes that no edge enters. If all go, their order is topological: the start of an
    edge is gone before its end can be. If not, an edge enters each node that is left, from a node
    that is left; walking these edges backwards never ends, and there are finitely many nodes, so
    that one comes twice: a cycle. It has no order, since each of its nodes would come before
    itself.

    >>> order_or_cycle("abc", [("a", "b"), ("b", "c")])
    Order(nodes=('a', 'b', 'c'))
    >>> order_or_cycle("abc", [("a", "b"), ("b", "c"), ("c", "b")])
    Cycle(nodes=('b', 'c'))
    """
    nodes = list(nodes)
    into: dict[Node, list[Node]] = {node: [] for node in nodes}
    out_of: dict[Node, list[Node]] = {node: [] for node in nodes}
    for start, end in edges:
        into[end].append(start)
        out_of[start].append(end)
    waiting = {node: len(starts) for node, starts in into.items()}
    order = [node for node in nodes if not waiting[node]]
    for node in order:  # which grows
        for end in out_of[node]:
            waiting[end] -= 1
            if not waiting[end]:
                order.append(end)
    if len(order) == len(nodes):
        return Order(tuple(order))
    done = set(order)
    path = [next(node for node in nodes if node not in done)]
    while path[-1] not in path[:-1]:
        path.append(next(start for start in into[path[-1]] if start not in done))
    return Cycle(tuple(reversed(path[path.index(path[-1]) + 1 :])))


def is_right(answer: Order | Cycle, nodes: Iterable[Node], edges: Edges) -> bool:
    """Whether an answer is what its type says."""
    edges = set(edges)
    if isinstance(answer, Cycle):
        ring = (*answer.nodes, *answer.nodes[:1])
        return len(ring) > 1 and all(pair in edges for pair in itertools.pairwise(ring))
    place = {node: i for i, node in enumerate(answer.nodes)}
    return set(place) == set(nodes) and all(place[start] < place[end] for start, end in edges)


def random_graphs(count: int) -> dict[str, int]:
    """How many random graphs have an order or a cycle, and whether Python's graphlib agrees."""
    rng = np.random.default_rng(0)
    tally = {"orders": 0, "cycles": 0, "right": 0, "as_graphlib": 0}
    for _ in range(count):
        size = int(rng.integers(1, 15))
        edges = {(int(a), int(b)) for a, b in rng.integers(0, size, (rng.integers(0, 2 * size), 2))}
        answer = order_or_cycle(range(size), edges)
        has_order = isinstance(answer, Order)
        before: Mapping[int, list[int]] = {
            n: [start for start, end in edges if end == n] for n in range(size)
        }
        try:
            graphlib.TopologicalSorter(before).prepare()
            theirs = True
        except graphlib.CycleError:
            theirs = False
        tally["orders" if has_order else "cycles"] += 1
        tally["right"] += is_right(answer, range(size), edges)
        tally["as_graphlib"] += has_order == theirs
    return tally


def graph_of(f: Callable[..., Any], *arguments: Any) -> tuple[list[str], list[tuple[int, int]]]:
    """The computation graph of a function of numbers, from its jaxpr: words and edges of nodes."""
    jaxpr = jax.make_jaxpr(f)(*arguments).jaxpr
    words = [f"w{i}" for i in range(1, len(jaxpr.invars) + 1)]
    node_of: dict[Any, int] = {v: i for i, v in enumerate(jaxpr.invars)}
    edges = []
    for equation in jaxpr.eqns:
        constants = [f"{float(v.val):g}" for v in equation.invars if hasattr(v, "val")]
        name = {"mul": "×", "add": "+", "logistic": "sigmoid"}.get(
            equation.primitive.name, equation.primitive.name
        )
        edges += [(node_of[v], len(words)) for v in equation.invars if not hasattr(v, "val")]
        node_of[equation.outvars[0]] = len(words)
        words.append(" ".join([*constants, name]))
    for number, v in enumerate(jaxpr.outvars, 1):
        edges.append((node_of[v], len(words)))
        words.append(f"f{number}")
    return words, edges


# --- The records


def measure(options: Options) -> Iterator[_study.Record]:
    """Records of the four parts, each with its `part`."""
    with jax.enable_x64(True):
        records = list(_measure(options))
    yield from records


def rounded(value: Any) -> float:
    """A number to nine digits, which is what a record keeps of each of hundreds."""
    return float(f"{float(value):.9g}")


def _measure(options: Options) -> Iterator[_study.Record]:
    seeds, steps = (3, (10,)) if options.smoke else (options.seeds, options.steps)
    families = ("length of z",) if options.smoke else FAMILIES
    keys = jax.random.split(jax.random.key(0), seeds)

    with _study.timed() as watch:
        found = [proximal(key) for key in keys]
        result: dict[str, Any] = {name: max(float(f[name]) for f in found) for name in found[0]}
    yield watch.record({"part": "proximal", "problems": seeds}, result)

    for count in steps:
        for family in families:
            with _study.timed() as watch:
                found = [random_problem(key, family, count) for key in keys]
                result = {name: [rounded(f[name]) for f in found] for name in found[0]}
            config = {"part": "rate", "problem": family, "steps": count, "problems": seeds}
            yield watch.record(config, result)
        if count <= 1000:
            with _study.timed() as watch:
                result = {name: [float(v)] for name, v in worst_problem(count).items()}
            config = {"part": "rate", "problem": "the worst", "steps": count, "problems": 1}
            yield watch.record(config, result)
        with _study.timed() as watch:
            found = [arbitrary_steps(key, count) for key in keys]
            result = {name: [rounded(f[name]) for f in found] for name in found[0]}
        yield watch.record({"part": "lemma", "steps": count, "problems": seeds}, result)

    length = 200 if options.smoke else 20000
    for rate, power in ((0.5, 0.0), (0.1, 0.0), (0.01, 0.0), (1.0, 1.0)):
        with _study.timed() as watch:
            run = partial(counter_example, rate=rate, power=power, steps=length)
            points = np.asarray(jax.vmap(run)(keys))
            squares = ((points - 0.5) ** 2).mean(0)
        late = squares[-length // 4 :]
        expected = 2.25 * rate / (2 - rate) if power == 0 else 2.25 / length
        shown = np.unique(np.geomspace(1, length, 120).astype(int)) - 1
        result = {
            "distance_after_one_step": float(np.abs(points[:, 1] - 0.5).mean()),
            "loss_after_one_step": float(2.25 + ((points[:, 1] - 0.5) ** 2).mean()),
            "late_distance": float(np.sqrt(late.mean() if power == 0 else squares[-1])),
            "expected_late_distance": math.sqrt(expected),
            "steps": (shown + 1).tolist(),
            "distances": np.sqrt(squares[shown]).round(6).tolist(),
        }
        config = {"part": "sgd", "rate": rate, "power": power, "steps": length, "runs": seeds}
        yield watch.record(config, result)

    for factor in (1.0, 2.0):
        with _study.timed() as watch:
            result = {
                "jacobians": {k: v.tolist() for k, v in jacobians(factor).items()},
                "values": printed_values(factor),
                "printed": list(PRINTED.values()),
            }
        yield watch.record({"part": "jacobian", "factor": factor}, result)

    with _study.timed() as watch:
        words, edges = graph_of(partial(functions, factor=2.0), 1.0, 2.0)
        answer = order_or_cycle(range(len(words)), edges)
    result = {
        "words": words,
        "edges": edges,
        "order": answer.nodes,
        "is_an_order": isinstance(answer, Order) and is_right(answer, range(len(words)), edges),
    }
    yield watch.record({"part": "graph", "function": "worksheet"}, result)

    with _study.timed() as watch:
        result = random_graphs(50 if options.smoke else options.graphs)
    yield watch.record({"part": "graphs"}, result)


# --- Tables and figures


@plots.style()
def draw(rows: _study.Rows, folder: Path) -> None:
    """Prints the tables, and draws the rate, SGD's walk and the graph."""
    print_tables(rows)
    _images.save(rate_figure(rows), folder / "theory_rate.png")
    _images.save(sgd_figure(rows), folder / "theory_sgd.png")
    (graph,) = _study.matching(rows, part="graph")
    _images.save(graph_figure(**graph["result"]), folder / "theory_graph.png")


def print_tables(rows: _study.Rows) -> None:
    """What was measured, in words and numbers."""
    (proximal_row,) = _study.matching(rows, part="proximal")
    print("4-1: w - g/lambda against a Newton step:", proximal_row["result"])
    rate = _study.matching(rows, part="rate")
    both = rate + _study.matching(rows, part="lemma")
    runs = sum(len(row["result"]["gap"]) for row in rate)
    print(
        f"4-3: gap over bound in {runs} runs: at most",
        max(max(row["result"]["gap"]) for row in rate if row["config"]["problem"] != "the worst"),
        "for random problems; the worst:",
        [row["result"]["gap"][0] for row in rate if row["config"]["problem"] == "the worst"],
    )
    steepest = max(max(row["result"]["steepest"]) for row in rate)
    jensen = [value for row in rate for value in row["result"]["jensen"]]
    print(f"  gradients at most {steepest:.6f} rho")
    print(f"  mean f(w) - f(mean w): {min(jensen):.3g} to {max(jensen):.3g} of the bound")
    left = [value for row in both for value in row["result"]["lemma"]]
    rest = max(max(row["result"]["lemma_identity"]) for row in both)
    print(f"4-2: left over right at most {max(left):.12f} in {len(left)} runs; with")
    print(f"  |w_(T+1) - w*|^2/(2 eta) added it is an equality, to {rest:.1e}")
    for row in _study.matching(rows, part="jacobian"):
        print(f"4-6 to 4-9, e^({row['config']['factor']:g} w2):")
        for name, jacobian in row["result"]["jacobians"].items():
            print(f"  {name:38}", " ".join(f"{v:.10g}" for v in np.ravel(jacobian)))
        pairs = zip(PRINTED, row["result"]["values"], row["result"]["printed"], strict=True)
        for name, value, printed in pairs:
            print(f"  {name:12} {value:.14g}, printed {printed:.14g}")
    for row in _study.matching(rows, part="graphs"):
        print("4-10:", row["result"])


def rate_figure(rows: _study.Rows) -> Any:
    """The gap over its bound against T."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1.0, color="black", lw=1.2)
    axes.annotate("the bound", (0.98, 1.0), (0, 4), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="right")  # fmt: skip
    for family in (*FAMILIES, "the worst"):
        found = sorted(
            (row["config"]["steps"], row["result"]["gap"])
            for row in _study.matching(rows, part="rate", problem=family)
        )
        steps, gaps = [steps for steps, _ in found], [gaps for _, gaps in found]
        label = "the worst (Nemirovski, Yudin)" if family == "the worst" else family
        (line,) = axes.plot(steps, [np.median(g) for g in gaps], "o-", ms=4, label=label)
        low, high = [min(g) for g in gaps], [max(g) for g in gaps]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, lw=0)
    axes.set(xscale="log", yscale="log", xlabel="steps T")
    axes.set_ylabel("(f(mean w) - f*) / (B rho / sqrt(T))")
    axes.set_title("gradient descent stays below its bound, and attains it")
    axes.set_ylim(3e-3, 1.5)
    title = "z = A (w - w*);\nmedian, least to most"
    figure.legend(fontsize=9, title=title, title_fontsize=9, loc="outside right center")
    return figure


def sgd_figure(rows: _study.Rows) -> Any:
    """How far SGD walks from the optimum that it starts in."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for row in _study.matching(rows, part="sgd"):
        config, result = row["config"], row["result"]
        constant = config["power"] == 0
        label = f"rate {config['rate']:g}" if constant else "rate 1/t"
        steps = result["steps"]
        (line,) = axes.plot(steps[1:], result["distances"][1:], label=label)
        colour = line.get_color()
        if constant:
            axes.axhline(result["expected_late_distance"], color=colour, ls=":", lw=1.2)
        else:
            walk = np.array(steps[1:])
            axes.plot(walk, 1.5 / np.sqrt(walk - 1), ":", color=colour, lw=1.2)
    axes.set(xscale="log", yscale="log", xlabel="step")
    axes.set_ylabel("distance from the optimum\n(root of the mean square)")
    axes.set_title("SGD leaves the optimum of (w - 2)²/2 + (w + 1)²/2; dotted: theory", fontsize=11)
    axes.legend(fontsize=9)
    return figure


def layered(
    count: int, edges: list[list[int]], order: list[int], words: list[str]
) -> tuple[dict[int, int], dict[int, float], list[list[int]]]:
    """A place for each node, its longest way from an input to the right, and a way for each edge.

    An edge over several layers goes through places that nothing else takes.
    """
    depth: dict[int, int] = {}
    for node in order:
        depth[node] = max((depth[start] + 1 for start, end in edges if end == node), default=0)
    last = max(depth.values())
    depth |= {node: last for node in range(count) if words[node].startswith("f")}
    paths = []
    for start, end in edges:
        path = [start]
        for level in range(depth[start] + 1, depth[end]):
            path.append(len(depth))
            depth[path[-1]] = level
        paths.append([*path, end])
    height: dict[int, float] = {}
    for level in range(last + 1):
        here = [node for node in depth if depth[node] == level]
        before = {n: [p[p.index(n) - 1] for p in paths if n in p[1:]] for n in here}
        mean = {n: np.mean([height[b] for b in before[n]] or [-n]) for n in here}
        for place, node in enumerate(sorted(here, key=lambda node: -mean[node])):
            height[node] = (len(here) - 1) / 2 - place
    return depth, height, paths


def graph_figure(
    words: list[str], edges: list[list[int]], order: list[int], is_an_order: bool
) -> Any:
    """A graph from left to right, its nodes numbered in topological order."""
    from matplotlib.figure import Figure

    depth, height, paths = layered(len(words), edges, order, words)
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for path in paths:
        points = [(depth[node], height[node]) for node in path]
        axes.plot(*zip(*points[:-1], strict=True), color="0.45", lw=1.1, zorder=0)
        room = 9 + 3 * len(words[path[-1]])
        arrow = {"arrowstyle": "-|>", "color": "0.45", "shrinkA": 0, "shrinkB": room, "lw": 1.1}
        axes.annotate("", points[-1], points[-2], arrowprops=arrow, zorder=0)
    box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": "#0072B2"}
    for node, word in enumerate(words):
        axes.text(depth[node], height[node], word, ha="center", va="center", bbox=box, fontsize=10)
        place = str(order.index(node) + 1)
        axes.text(depth[node], height[node] + 0.24, place, color="#D55E00", ha="center", fontsize=9)
    axes.set_xlim(-0.4, max(depth.values()) + 0.4)
    axes.set_ylim(min(height.values()) - 0.4, max(height.values()) + 0.5)
    axes.set_axis_off()
    axes.set_title("the worksheet's function, from its jaxpr; orange: a topological order")
    return figure


if __name__ == "__main__":
    _study.main("theory", __doc__, Options, measure, draw)
