"""The mutator: small mistakes planted, one at a time, in the code of rules and optimizers.

A mutant is a function of the package with one node of its syntax tree changed. It is planted by
exchanging the function's code object, so that everything that calls the function, in whatever
module, meets the mistake; and taken out again. What refuses wrong input by `_validate`, messages,
docstrings, annotations and defaults are left alone.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import copy
import functools
import inspect
import pathlib
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

FLAGS = __future__.annotations.compiler_flag
PACKAGE = "funcnet"
# The last is of several devices, where tests/kernels/test_meshes.py proves it.
LEFT_ALONE = ("funcnet._validate", "funcnet.layers._params", "funcnet.kernels._types")
LEFT_ALONE_CALLS = ("_validate.", "hyperparameter", "_check_", "check_", "_bands")
COTANGENTS = {"dy", "dloss", "dx_hat", "dz", "g"}
SMALL = {"eps", "tiny", "eps_root"}
ORDERLESS = {"where", "maximum", "minimum", "zip", "isinstance", "result_type", "promote_types"}
ORDERLESS |= {"logaddexp", "hasattr", "getattr", "range", "max", "min"}
UNORDERED = ("sum", "mean", "rev", "isinstance")
SHAPES_ALONE = ("zeros_like", "ones_like", "eval_shape", "_last_axis")


class Mutant(NamedTuple):
    """One mistake: where it is, what was changed to what, and the code that makes it."""

    file: str
    function: str
    operator: str
    line: str
    change: str
    nth: int  # among mutants that are otherwise the same
    target: types.FunctionType
    code: types.CodeType

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """What stays the same while the source line does."""
        return self[:6]


Proof = Callable[[], None]
"""Raises when it notices that something is wrong."""


class Subject(NamedTuple):
    """A rule or an optimizer: the functions its code starts from, and its proofs by stage."""

    name: str
    seeds: tuple[Callable, ...]
    stages: tuple[Callable[[], list[Proof]], ...]


def notice(same: Any, *about: Any) -> None:
    """An assertion that no option of Python takes away."""
    if not same:
        raise AssertionError(*about)


@contextlib.contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The mistake is in the package while the context lasts."""
    right = mutant.target.__code__
    mutant.target.__code__ = mutant.code
    try:
        yield
    finally:
        mutant.target.__code__ = right


# Which functions ---------------------------------------------------------------------------


def reached(*seeds: Callable) -> list[types.FunctionType]:
    """The package's functions that these call, and they themselves."""
    found: dict[int, types.FunctionType] = {}
    queue = list(seeds)
    while queue:
        function = queue.pop()
        if not isinstance(function, types.FunctionType) or id(function) in found:
            continue
        module = function.__module__
        if not module.startswith(PACKAGE) or module in LEFT_ALONE:
            continue
        if function.__qualname__ != function.__name__:  # a function within a function
            continue
        if function.__name__ in LEFT_ALONE_CALLS or function.__name__ == "<lambda>":
            continue
        found[id(function)] = function
        names = set(_names(function.__code__))
        values = [function.__globals__.get(name) for name in names]
        modules = [v for v in values if isinstance(v, types.ModuleType)]
        modules = [m for m in modules if m.__name__.startswith(PACKAGE)]
        queue += [getattr(v, "definition", v) for v in values if callable(v)]
        queue += [getattr(m, name, None) for m in modules for name in names]
    return sorted(found.values(), key=lambda f: (f.__module__, f.__code__.co_firstlineno))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


# Which mistakes ----------------------------------------------------------------------------


def mutants_of(function: types.FunctionType) -> Iterator[Mutant]:
    """Every mutant of a function, in the order of its source."""
    source = textwrap.dedent(inspect.getsource(function))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.FunctionDef)
    tree.decorator_list = []
    lines = source.splitlines()
    seen: dict[tuple, int] = {}
    file = _file_of(function)
    for holder, field, index, node in _places(tree):
        for operator, new in _variants(node, holder, field):
            if ast.unparse(node) == ast.unparse(new):
                continue
            change = f"{_text(node)} -> {_text(new)}"
            line = lines[node.lineno - 1].strip()
            same = (operator, line, change)
            code = _compiled(function, tree, holder, field, index, new)
            if code is None or code == function.__code__:
                continue
            seen[same] = seen.get(same, 0) + 1
            yield Mutant(
                file,
                function.__name__,
                operator,
                line,
                change,
                seen[same],
                function,
                code,
            )


def _file_of(function: types.FunctionType) -> str:
    return pathlib.Path(function.__code__.co_filename).name


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 90 else text[:40] + " ... " + text[-45:]


def _compiled(
    function: types.FunctionType,
    tree: ast.FunctionDef,
    holder: ast.AST,
    field: str,
    index: int | None,
    new: ast.AST,
) -> types.CodeType | None:
    old = getattr(holder, field)
    changed = ast.fix_missing_locations(new)
    if index is not None:
        changed = [*old[:index], new, *old[index + 1 :]]
    filename = function.__code__.co_filename
    setattr(holder, field, changed)
    try:
        module = ast.Module([tree], [])
        compiled = compile(module, filename, "exec", flags=FLAGS, dont_inherit=True)
    except SyntaxError:
        return None
    finally:
        setattr(holder, field, old)
    codes = (c for c in compiled.co_consts if isinstance(c, types.CodeType))
    return next(c for c in codes if c.co_name == function.__name__)


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, Any]]:
    """Each node that may be changed, with the field of the node that holds it."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "defaults", "kw_defaults"):
            continue
        items = value if isinstance(value, list) else [value]
        for i, item in enumerate(items):
            if not isinstance(item, ast.AST) or _is_left_alone(item):
                continue
            if isinstance(item, ast.keyword) and item.arg == "strict":  # zip's
                continue
            if hasattr(item, "lineno"):
                yield tree, field, i if isinstance(value, list) else None, item
            yield from _places(item)


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, (ast.Raise, ast.ExceptHandler, ast.JoinedStr, ast.arguments)):
        return True
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).startswith(LEFT_ALONE_CALLS)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


OPERATORS: list[Callable[..., Iterator[tuple[str, ast.AST]]]] = []


def _variants(node: Any, holder: Any, field: str) -> Iterator[tuple[str, ast.AST]]:
    for operator in OPERATORS:
        for name, new in operator(node, holder, field):
            yield name, ast.copy_location(new, node)


def operator(kind: type | tuple[type, ...]) -> Callable:
    """Registers what is done to a node of some kinds."""

    def register(make: Callable) -> Callable:
        @functools.wraps(make)
        def guarded(node: Any, holder: Any, field: str) -> Iterator[tuple[str, ast.AST]]:
            if isinstance(node, kind):
                yield from make(node, holder, field)

        OPERATORS.append(guarded)
        return make

    return register


def _named(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))


def _called(node: ast.AST) -> str:
    """The last part of the name of what is called."""
    if not isinstance(node, ast.Call):
        return ""
    return ast.unparse(node.func).rpartition(".")[2]


def _is_method(node: ast.Call) -> bool:
    """Whether `x.sum()` is called, rather than `jnp.sum(x)`."""
    return isinstance(node.func, ast.Attribute) and not (
        isinstance(node.func.value, ast.Name) and node.func.value.id in ("jnp", "lax", "np", "jax")
    )


def _call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.parse(name, mode="eval").body, list(args), [])


def _replaced(node: Any, **fields: Any) -> Any:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


@operator(ast.BinOp)
def arithmetic(node, holder, field):
    a, b = node.left, node.right
    match node.op:
        case ast.Add() | ast.Sub():
            small = [side for side in (a, b) if _named(side, SMALL)]
            if small and isinstance(node.op, ast.Add):
                yield "eps", (b if small[0] is a else a)
            swapped = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            # A list is extended by +, which has no opposite.
            if not any(isinstance(x, (ast.List, ast.Tuple)) for side in (a, b) for x in (side,)):
                yield "sign", _replaced(node, op=swapped)
            if not small:
                yield "term", a
                yield "term", b if isinstance(node.op, ast.Add) else ast.UnaryOp(ast.USub(), b)
        case ast.Mult():
            yield "factor", _replaced(node, op=ast.Div())
            yield "factor", a
            yield "factor", b
        case ast.Div() | ast.FloorDiv():
            yield "factor", _replaced(node, op=ast.Mult())
            yield "factor", a
        case ast.Pow():
            yield "factor", a
        case ast.MatMult():
            yield "transpose", _replaced(node, left=b, right=a)
        case ast.Mod():
            yield "factor", _replaced(node, op=ast.FloorDiv())
        case ast.BitAnd():
            yield "compare", _replaced(node, op=ast.BitOr())
        case ast.BitOr():
            yield "compare", _replaced(node, op=ast.BitAnd())


@operator(ast.UnaryOp)
def unary(node, holder, field):
    if isinstance(node.op, ast.USub):
        yield ("axis" if isinstance(node.operand, ast.Constant) else "sign"), node.operand
    elif isinstance(node.op, (ast.Not, ast.Invert)):
        yield "compare", node.operand


@operator(ast.Constant)
def constants(node, holder, field):
    if node.value is True or node.value is False:
        yield "axis", ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        where = _place_of_constant(holder, field)
        if isinstance(node.value, int):
            yield where, ast.Constant(node.value + 1)
            if node.value:
                yield where, ast.Constant(node.value - 1)
        else:
            yield where, ast.Constant(2 * node.value if node.value else 1.0)
            if node.value != 1.0:
                yield where, ast.Constant(1.0 if node.value else -1.0)


def _place_of_constant(holder: Any, field: str) -> str:
    """A number in a product is a factor; one in a reduction, a slice or a tuple is an axis."""
    if isinstance(holder, ast.BinOp) and isinstance(holder.op, (ast.Mult, ast.Div, ast.Pow)):
        return "factor"
    if isinstance(holder, ast.Call) and _called(holder) in ("mean", "sum", "max", "logsumexp"):
        return "axis"
    if isinstance(holder, (ast.Tuple, ast.keyword, ast.UnaryOp)):
        return "axis"
    return "constant"


@operator(ast.Call)
def calls(node, holder, field):
    name, args = _called(node), node.args
    method = _is_method(node)
    first = node.func.value if method else (args[0] if args else None)
    axis = [k for k in node.keywords if k.arg in ("axis", "keepdims")]
    if name in ("sum", "mean"):
        other = "mean" if name == "sum" else "sum"
        if method or isinstance(node.func, ast.Attribute):
            yield "sum_mean", _replaced(node, func=_replaced(node.func, attr=other))
        if method and args:
            yield "axis", _replaced(node, args=args[1:])
            yield "axis", _replaced(node, args=[ast.Constant(0), *args[1:]])
    for keyword in axis:
        rest = [k for k in node.keywords if k is not keyword]
        yield "axis", _replaced(node, keywords=rest)
    for keyword in node.keywords:
        if keyword.arg in ("preferred_element_type", "rhs_dilation", "lhs_dilation"):
            rest = [k for k in node.keywords if k is not keyword]
            yield "dtype", _replaced(node, keywords=rest)
    if name == "astype":
        yield "dtype", first
    elif name == "wide" and len(args) == 1:
        yield "dtype", args[0]
    elif name in ("reshape", "transpose", "rev"):
        yield "transpose", first
    elif name in ("matmul_nt", "matmul_tn", "matmul"):
        for other in sorted({"matmul_nt", "matmul_tn", "matmul"} - {name}):
            yield "transpose", _replaced(node, func=_replaced(node.func, attr=other))
    elif name == "where" and len(args) == 3:
        yield "where", _replaced(node, args=[args[0], args[2], args[1]])
        yield "where", args[1]
        yield "where", args[2]
    elif name in ("maximum", "minimum"):
        other = "minimum" if name == "maximum" else "maximum"
        yield "clamp", _replaced(node, func=_replaced(node.func, attr=other))
        yield "clamp", args[0]
        yield "clamp", args[1]
    elif name in ("clip", "abs", "sign", "square", "expm1", "log1p", "exp", "isnan"):
        yield "function", first
        if name in ("expm1", "log1p"):
            shifted = ast.BinOp(first, ast.Add(), ast.Constant(1))
            exp = ast.BinOp(_call("jnp.exp", first), ast.Sub(), ast.Constant(1))
            yield "precision", _call("jnp.log", shifted) if name == "log1p" else exp
    elif name in ("logistic", "tanh", "erfc"):
        yield "function", first
    elif name == "logsumexp":
        exp = _call("jnp.exp", first)
        total = ast.Call(ast.Attribute(exp, "sum", ast.Load()), [], node.keywords)
        yield "precision", _call("jnp.log", total)
    elif name == "logaddexp":
        total = ast.BinOp(_call("jnp.exp", args[0]), ast.Add(), _call("jnp.exp", args[1]))
        yield "precision", _call("jnp.log", total)
    elif name == "all":
        yield "compare", _replaced(node, func=_replaced(node.func, attr="any"))
    if name in ("sqrt", "rsqrt"):
        root = "jax.lax.rsqrt" if name == "sqrt" else "jnp.sqrt"
        yield "function", _call(root, first)
        if isinstance(first, ast.BinOp) and isinstance(first.op, ast.Add):
            for inside, small in ((first.left, first.right), (first.right, first.left)):
                if _named(small, SMALL):
                    moved = _replaced(node, args=[inside])
                    yield "eps", ast.BinOp(moved, ast.Add(), small)
                    break
    if len(args) >= 2 and name not in ORDERLESS:
        for i in range(len(args) - 1):
            if any(isinstance(a, ast.Starred) for a in args[i : i + 2]):
                continue
            if ast.unparse(args[i]) == ast.unparse(args[i + 1]):
                continue
            swapped = [*args[:i], args[i + 1], args[i], *args[i + 2 :]]
            yield "order", _replaced(node, args=swapped)


@operator(ast.Attribute)
def attributes(node, holder, field):
    if not isinstance(node.ctx, ast.Load):
        return
    if node.attr in ("T", "mT"):
        yield "transpose", node.value
    elif node.attr == "size":
        yield "count", ast.BinOp(node, ast.Sub(), ast.Constant(1))


@operator(ast.Name)
def names(node, holder, field):
    if not isinstance(node.ctx, ast.Load):
        return
    if isinstance(holder, ast.Attribute) and holder.attr in ("shape", "dtype", "ndim", "size"):
        return
    if _called(holder) in SHAPES_ALONE:
        return
    if node.id in COTANGENTS:
        yield "cotangent", _call("jnp.ones_like", node)
    elif node.id == "count":
        yield "count", ast.BinOp(node, ast.Sub(), ast.Constant(1))


@operator((ast.Tuple, ast.List))
def sequences(node, holder, field):
    if isinstance(holder, ast.Subscript):
        return
    if isinstance(holder, ast.Compare) or _called(holder) in UNORDERED:
        return  # neither membership nor a reduction's axes know an order
    for i in range(len(node.elts) - 1):
        if any(isinstance(e, ast.Starred) for e in node.elts[i : i + 2]):
            continue
        if ast.unparse(node.elts[i]) == ast.unparse(node.elts[i + 1]):
            continue
        order = [*node.elts[:i], node.elts[i + 1], node.elts[i], *node.elts[i + 2 :]]
        yield "order", _replaced(node, elts=order)


COMPARISONS = {
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


@operator(ast.Compare)
def comparisons(node, holder, field):
    for new in COMPARISONS[type(node.ops[0])]:
        yield "compare", _replaced(node, ops=[new(), *node.ops[1:]])


@operator(ast.BoolOp)
def junctions(node, holder, field):
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield "compare", _replaced(node, op=other)


@operator(ast.IfExp)
def conditional_values(node, holder, field):
    yield "where", _replaced(node, body=node.orelse, orelse=node.body)


@operator(ast.If)
def branches(node, holder, field):
    refuses = len(node.body) == 1 and isinstance(node.body[0], ast.Raise)
    if not refuses:
        yield "where", _replaced(node, test=ast.UnaryOp(ast.Not(), node.test))


@operator(ast.Return)
def results(node, holder, field):
    if node.value is None:
        return
    yield "none", _replaced(node, value=ast.Constant(None))
    if isinstance(node.value, ast.Tuple):
        for i, element in enumerate(node.value.elts):
            if not (isinstance(element, ast.Constant) and element.value is None):
                elements = list(node.value.elts)
                elements[i] = ast.Constant(None)
                yield "none", _replaced(node, value=_replaced(node.value, elts=elements))
