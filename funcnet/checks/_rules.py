"""Custom rules seen from outside: the function without them, and their raw backward functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import custom_derivatives
from jax.tree_util import keystr, tree_flatten_with_path

from funcnet._jaxprs import equations, is_jaxpr, opened, sub_jaxprs
from funcnet._reports import sentence

RULE_PRIMITIVES = ("custom_vjp_call", "custom_vjp_call_jaxpr")
RAISED = ("the forward function raised", "the backward function raised")
CALL_PRIMITIVES = ("pjit", "jit", "closed_call", "core_call", "eval_jaxpr")


def is_array(leaf: Any) -> bool:
    """Whether a leaf of the arguments is data, and not a part of the program."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def is_rule(f: Any) -> bool:
    """Whether `f` is a `custom_vjp` or a `custom_jvp` itself, and not a function that calls one."""
    return isinstance(f, (jax.custom_vjp, jax.custom_jvp))  # attributes are copied by any wrapper


def undecorated(f: Any) -> Any:
    """The function that a rule decorates, under `jit` and `partial` too; where none does, `f`.

    Of a `custom_jvp` that is called among other things the derivative is known: JAX's own.
    """
    if is_rule(f):
        return f.fun
    if isinstance(f, functools.partial):
        inner = undecorated(f.func)
        return f if inner is f.func else functools.partial(inner, *f.args, **f.keywords)
    if isinstance(f, type(_JITTED)):
        inner = undecorated(f.__wrapped__)
        return f if inner is f.__wrapped__ else inner
    return f


_JITTED: Any = jax.jit(lambda: None)


def contains_rule(jaxpr: Any) -> bool:
    """Whether a `custom_vjp` is called anywhere in a jaxpr."""
    return any(equation.primitive.name in RULE_PRIMITIVES for equation in equations(jaxpr))


def _evaluate(jaxpr: Any, consts: Sequence[Any], *args: Any) -> list[Any]:
    """Evaluates a jaxpr with every `custom_vjp` replaced by the function it decorates."""
    jaxpr = opened(jaxpr)
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        inputs = [v.val if hasattr(v, "val") else env[v] for v in eqn.invars]
        name = eqn.primitive.name
        if name in RULE_PRIMITIVES or (name in CALL_PRIMITIVES and _holds_rule(eqn)):
            (inner,) = sub_jaxprs({k: v for k, v in eqn.params.items() if "jaxpr" in k})
            outputs = _evaluate(inner, getattr(inner, "consts", ()), *inputs)
        elif name == "shard_map" and _holds_rule(eqn):
            outputs = _sharded(eqn.params)(*inputs)
        else:
            params = _without_rules_in(eqn) if _holds_rule(eqn) else eqn.params
            outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(params))
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [v.val if hasattr(v, "val") else env[v] for v in jaxpr.outvars]


def _holds_rule(eqn: Any) -> bool:
    return any(map(contains_rule, sub_jaxprs(eqn.params)))


def _sharded(params: dict[str, Any]) -> Callable:
    """The program of a `jax.shard_map`, whose axes have names only while it is traced, again."""
    return jax.shard_map(
        functools.partial(_evaluate, params["jaxpr"], ()),
        mesh=params["mesh"],
        in_specs=params["in_specs"],
        out_specs=list(params["out_specs"]),
        axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )


def _without_rules_in(eqn: Any) -> dict[str, Any]:
    if eqn.primitive.name == "custom_jvp_call":
        return eqn.params  # its own derivative is given apart, and is not a custom_vjp

    def rewrite(item: Any) -> Any:
        if not is_jaxpr(item) or not contains_rule(item):
            return item
        closed = hasattr(item, "consts")
        evaluate = functools.partial(_evaluate, item, item.consts if closed else ())
        traced = jax.make_jaxpr(evaluate)(*(v.aval for v in opened(item).invars))
        if closed:
            return traced
        if traced.consts:
            raise NotImplementedError(f"a {eqn.primitive.name} whose body holds constants")
        return traced.jaxpr

    return {
        key: type(value)(map(rewrite, value))
        if isinstance(value, (tuple, list))
        else rewrite(value)
        for key, value in eqn.params.items()
    }


def without_rules(f: Callable) -> Callable:
    """Returns `f` with every `jax.custom_vjp` that it calls replaced by the decorated function.

    The function is traced, and its program evaluated with the calls of rules inlined: inside
    `jit`, `scan`, `while`, `cond`, `checkpoint` and `shard_map` too. Autodiff of the result is the
    truth that a rule is compared with when no plain twin is given.

    Args:
        f: A traceable function, or a `jax.custom_vjp` object.

    Returns:
        A function of the same arguments, which can be differentiated in both modes.

    >>> import jax
    >>> square = jax.custom_vjp(lambda x: x**2)
    >>> square.defvjp(lambda x: (x**2, x), lambda x, cotangent: (100 * x * cotangent,))
    >>> float(jax.grad(square)(3.0)), float(jax.grad(without_rules(square))(3.0))
    (300.0, 6.0)
    """
    f = undecorated(f)

    @functools.wraps(f, updated=())
    def plain(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        traced = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

        def flat(*arrays: Any) -> Any:
            merged = list(leaves)
            for i, array in zip(traced, arrays, strict=True):
                merged[i] = array
            some_args, some_kwargs = jax.tree.unflatten(tree, merged)
            return f(*some_args, **some_kwargs)

        arrays = [leaves[i] for i in traced]
        closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*arrays)
        outputs = _evaluate(closed, closed.consts, *arrays)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return plain


class RawRule(NamedTuple):
    """What is wrong with the raw forward and backward functions of one rule, in sentences."""

    name: str
    problems: tuple[str, ...]


def raw_rules(f: Callable, *args: Any) -> list[RawRule]:
    """Calls, abstractly, the raw backward function of each rule that `f(*args)` reaches.

    JAX broadcasts a backward rule's prefix, does not compare dtypes and drops what is returned
    for integers, so a mistake there is visible only here.
    """
    found: dict[Any, RawRule] = {}
    call = jax.custom_vjp.__call__
    inside = False  # the functions of a rule, which may call rules themselves

    def recording(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        leaves, tree = jax.tree.flatten((args, kwargs))
        key = (id(self), tree, tuple(map(_type_of, leaves)))
        if not inside and key not in found and self.fwd is not None:
            inside = True
            try:
                problems = _problems(self, _positional(self.fun, args, kwargs))
                found[key] = RawRule(getattr(self.fun, "__name__", "rule"), tuple(problems))
            finally:
                inside = False
        return call(self, *args, **kwargs)

    # Without jit: a function that was compiled before would not be called again.
    jax.custom_vjp.__call__ = recording  # type: ignore[method-assign]
    try:
        with jax.disable_jit():
            jax.make_jaxpr(f)(*args)
    finally:
        jax.custom_vjp.__call__ = call  # type: ignore[method-assign]
    return list(found.values())


def _type_of(leaf: Any) -> Any:
    return (leaf.shape, str(leaf.dtype)) if hasattr(leaf, "shape") else repr(leaf)


def _positional(fun: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    bound = inspect.signature(fun).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.args


def _perturbed(leaf: Any) -> Any:
    """An argument as JAX hands it to a rule with symbolic zeros: no integer is perturbed."""
    floating = jax.dtypes.issubdtype(jax.dtypes.result_type(leaf), np.inexact)
    return custom_derivatives.CustomVJPPrimal(leaf, floating)


def _zero_cotangent(leaf: Any) -> Any:
    leaf = jax.typeof(leaf)  # an output may be a Python number
    if jax.dtypes.issubdtype(leaf.dtype, np.inexact):
        return jax.numpy.zeros(leaf.shape, leaf.dtype)
    return np.zeros(leaf.shape, jax.dtypes.float0)


def _problems(rule: Any, args: tuple[Any, ...]) -> list[str]:
    static = [args[i] for i in rule.nondiff_argnums if i < len(args)]
    dynamic = [(i, a) for i, a in enumerate(args) if i not in rule.nondiff_argnums]
    names = argument_names(rule.fun, len(args))
    given = args
    if rule.symbolic_zeros:
        given = tuple(
            a if i in rule.nondiff_argnums else jax.tree.map(_perturbed, a)
            for i, a in enumerate(args)
        )
    try:
        out, residuals = rule.fwd(*given)
    except Exception as error:
        return [f"{RAISED[0]} {sentence(error)}"]
    try:
        cotangents = rule.bwd(*static, residuals, jax.tree.map(_zero_cotangent, out))
    except Exception as error:
        return [f"{RAISED[1]} {sentence(error)}"]
    if not isinstance(cotangents, (tuple, list)) or len(cotangents) != len(dynamic):
        kind = type(cotangents).__name__
        count = f" of {len(cotangents)}" if isinstance(cotangents, (tuple, list)) else ""
        return [
            f"the backward function returns a {kind}{count}, expected a tuple of {len(dynamic)}: "
            "one cotangent for each argument"
        ]
    problems: list[str] = []
    for (i, argument), cotangent in zip(dynamic, cotangents, strict=True):
        problems += _compare_types(names[i], argument, cotangent)
    return problems


def _compare_types(name: str, argument: Any, cotangent: Any) -> list[str]:
    if cotangent is None:  # JAX's own way to write a zero
        return []
    wanted, tree = tree_flatten_with_path(argument)
    wanted_tree: Any = tree
    got_leaves, got_tree = jax.tree.flatten(cotangent)
    if got_tree != wanted_tree:  # None may stand for a leaf, which it does not where None was given
        got_leaves, got_tree = jax.tree.flatten(cotangent, is_leaf=lambda x: x is None)
    if got_tree != wanted_tree:
        prefix = len(got_leaves) == 1 and len(wanted) != 1
        return [
            f"the cotangent of {name} has structure {jax.tree.structure(cotangent)}, expected "
            f"{wanted_tree}"
            + (": one array for a whole tree, which JAX copies to every leaf" if prefix else "")
        ]
    problems = []
    for (path, leaf), got in zip(wanted, got_leaves, strict=True):
        where = name + keystr(path, simple=False)
        if got is None or not hasattr(leaf, "dtype"):
            continue
        floating = jax.dtypes.issubdtype(leaf.dtype, np.inexact)
        shape, dtype = np.shape(got), getattr(got, "dtype", None)
        if shape != leaf.shape:
            hint = ""
            if floating and shape == leaf.shape[::-1]:
                hint = ": a transpose is missing"
            elif not floating:
                hint = " (an integer argument: return None)"
            problems.append(
                f"the cotangent of {where} has shape {shape}, the argument {leaf.shape}{hint}"
            )
        elif floating and dtype != leaf.dtype:
            problems.append(
                f"the cotangent of {where} has dtype {dtype or type(got).__name__}, the argument "
                f"{leaf.dtype}: JAX does not compare them; cast at the end of the backward function"
            )
    return problems


def argument_names(fun: Callable, count: int) -> list[str]:
    """The names of the first `count` positional parameters, for messages."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    return names[:count] + [f"{rest}[{i}]" for i in range(count - len(names))]
