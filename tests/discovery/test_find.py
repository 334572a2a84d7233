"""Rules in modules: wherever they are kept, whoever wraps them, and not those of others."""

import pytest

from funcnet import discovery
from tests.support import strangers
from tests.support.strangers import RULES, write

folder = strangers.folder


def found(folder, content, target="rules.py", **files):
    write(folder, {"rules.py": RULES})
    path = folder / "rules.py"
    path.write_text(path.read_text() + strangers.textwrap.dedent(content))
    write(folder, files)
    return discovery.find(discovery.load(target))


def names(found):
    return [rule.name for rule in found.rules]


KEPT = {
    "under jit": ("jitted = jax.jit(new())", "jitted"),
    "under partial": ("half = functools.partial(jax.jit(new()), 1)", "half"),
    "under wraps": (
        """
        def deco(f):
            @functools.wraps(f)
            def wrapped(*args): return f(*args)
            return wrapped
        wrapped = deco(deco(new()))
        """,
        "wrapped",
    ),
    "in a closure": (
        """
        def closed(f):
            def call(x): return f(x) + 1
            return call
        call = closed(new())
        """,
        "call.<locals>.made",
    ),
    "a method": ("class A:\n    f = new()\n", "A.f"),
    "a static method": ("class A:\n    f = staticmethod(jax.jit(new()))\n", "A.f"),
    "an attribute": ("class A: pass\na = A()\na.f = new()", "a.f"),
    "a namespace": ("ops = types.SimpleNamespace(f=new())", "ops.f"),
    "a dict": ("TABLE = {'relu': new()}", "TABLE['relu']"),
    "a list": ("TABLE = [1, [new()]]", "TABLE[1][0]"),
    "a set": ("TABLE = {new()}", "TABLE[0]"),
    "a named tuple": (
        "class Pair(NamedTuple):\n    f: object\n    g: object\npair = Pair(1, new())",
        "pair.g",
    ),
    "another's function": (
        "sine = jax.custom_vjp(jnp.sin)\nsine.defvjp(lambda x: (x, x), lambda x, g: (g,))",
        "sine",
    ),
    "another's rule": ("mine = {'relu': relu}", None),
    "jvps": (
        "@jax.custom_jvp\ndef sine(x): return jnp.sin(x)\n"
        "sine.defjvps(lambda t, y, x: jnp.cos(x) * t)",
        "sine",
    ),
    "a custom gradient": (
        "@jax.custom_gradient\ndef twice(x): return 2 * x, lambda g: 2 * g",
        "twice",
    ),
    "made at each call": (
        """
        def hidden(x):
            @jax.custom_vjp
            def f(x): return x
            f.defvjp(lambda x: (x, None), lambda _, g: (g,))
            return f(x)
        """,
        "hidden",
    ),
    "made in a method": (
        """
        class A:
            def __call__(self, x):
                f = jax.custom_vjp(lambda x: x)
                f.defvjp(lambda x: (x, None), lambda _, g: (g,))
                return f(x)
        """,
        "A.__call__",
    ),
}
FACTORY = """
def new():
    @jax.custom_vjp
    def made(x):
        return x
    made.defvjp(lambda x: (x, None), lambda _, g: (g,))
    return made
"""


@pytest.mark.parametrize("kind", KEPT)
def test_rules_are_found_where_they_are_kept(folder, kind):
    """The factory is not flagged where one of its rules is found."""
    content, name = KEPT[kind]
    uses = "new()" in content
    rules = found(folder, (FACTORY if uses else "") + strangers.textwrap.dedent(content)).rules
    expected = ["square", "cube"] + ([name] if name else [])
    assert [rule.name for rule in rules] == expected
    assert all(rule.module == "rules" for rule in rules)


WRAPPER = """
import jax

class wrapper:
    def __init__(self, fn):
        self.fn = fn
        self.fn_bwd = self.fn_wrapped = None

    def def_bwd(self, fn_bwd):
        def wrapped(static, x): return self.fn(x)
        def fwd(static, x): return self.fn(x), x
        def bwd(static, residuals, g): return (self.fn_bwd(residuals, g),)
        self.fn_bwd = fn_bwd
        self.fn_wrapped = jax.custom_vjp(wrapped, nondiff_argnums=(0,))
        self.fn_wrapped.defvjp(fwd, bwd)

    def __call__(self, x): return self.fn_wrapped((), x)
"""


def test_equinoxs_wrappers_are_objects_that_hold_rules(folder):
    write(folder, {"equinox/wrappers.py": WRAPPER})
    content = """
    import sys
    sys.path.insert(0, "equinox")
    from wrappers import wrapper

    @wrapper
    def third(x): return x / 3

    @third.def_bwd
    def _third_bwd(x, g): return g / 2

    funcnet_samples = {"third": dict(args="f32[2]", checks=["cotangent"])}
    """
    rules = found(folder, content)
    assert names(rules) == ["square", "cube", "third"]
    lines = (folder / "rules.py").read_text().splitlines()
    assert lines[rules.rules[2].line - 1] == "@third.def_bwd"
    (judgement,) = discovery.Judge(rules).judge(rules.rules[2])
    assert judgement.verdict == "wrong"


def test_file_and_line_are_the_backward_functions(folder):
    content = """
    named = jax.custom_vjp(lambda x: x)
    named.defvjp(
        lambda x: (x, None),
        functools.partial(
            lambda scale, _, g: (g * scale,), 1.0))
    """
    rules = found(folder, content).rules
    lines = (folder / "rules.py").read_text().splitlines()
    assert [lines[rule.line - 1].strip() for rule in rules] == [
        "def _square_bwd(x, g):",
        "def _cube_bwd(x, g):",
        "lambda scale, _, g: (g * scale,), 1.0))",
    ]
    assert {rule.file for rule in rules} == {str(folder / "rules.py")}


def test_objects_that_do_not_like_to_be_looked_at(folder):
    content = """
    from unittest import mock
    class Bad(dict):
        def items(self): raise RuntimeError
    class Proxy:
        __wrapped__ = property(lambda self: 1 / 0)
        def __getattr__(self, name): raise RuntimeError(name)
        def __call__(self): pass
    class Descriptor:
        def __get__(self, *_): raise RuntimeError
    class Holder:
        d = Descriptor()
        f = square
    bad, proxy, holder, mocked, huge = Bad(a=1), Proxy(), Holder(), mock.MagicMock(), np.ones(10**6)
    loop = []
    loop.append(loop)
    """
    assert names(found(folder, content)) == ["square", "cube"]


def test_a_rule_with_many_names_is_one(folder):
    rules = found(folder, "again = jax.jit(square)\nTABLE = {'square': square, 'other': cube}")
    assert names(rules) == ["square", "cube"]
    assert {name for name, _ in rules.rules[0].aliases} == {"again", "TABLE['square']"}


def test_a_functions_rule_without_an_instance_is_not_passed_over(folder):
    rules = found(folder, FACTORY)
    assert names(rules) == ["square", "cube", "new"]
    assert rules.rules[2].rule is None


def test_what_is_imported_belongs_to_others(folder):
    write(folder, {"pkg/__init__.py": "from .one import square", "pkg/one.py": RULES})
    write(folder, {"pkg/two.py": "from .one import cube, relu\nsame = cube"})
    one, two, pkg = (discovery.find(discovery.load(f"pkg.{m}")) for m in ("one", "two", "__init__"))
    assert (names(one), names(two), names(pkg)) == (["square", "cube"], [], [])
    whole = discovery.find(discovery.load("pkg"))
    assert [rule.label for rule in whole.rules] == ["pkg.one:square", "pkg.one:cube"]


def test_a_neighbours_factory_makes_rules_here(folder):
    write(folder, {"pkg/__init__.py": "", "pkg/make.py": "import jax\n" + FACTORY})
    write(folder, {"pkg/ops.py": "from .make import new\nmine = new()"})
    write(folder, {"pkg/user.py": "from .ops import mine"})
    assert names(discovery.find(discovery.load("pkg.ops"))) == ["mine"]
    assert [r.label for r in discovery.find(discovery.load("pkg")).rules] == ["pkg.ops:mine"]


@pytest.mark.parametrize(
    ("name", "is_rule"),
    [("square", True), ("A.f", True), ("TABLE['s'][0]", True), ("relu", True), ("plain", False)],
)
def test_a_function_is_found_by_its_name(folder, name, is_rule):
    content = "class A:\n    f = jax.jit(square)\nTABLE = {'s': [square]}\ndef plain(x): return x\n"
    (rule,) = found(folder, content, f"rules.py:{name}").rules
    assert (rule.name, rule.rule is not None) == (name, is_rule)


def test_a_name_that_is_not_there(folder):
    with pytest.raises(discovery.TargetError, match=r"no function no; .* in it: square, cube\."):
        found(folder, "", "rules.py:no")


def test_a_reason_leaves_a_rule_out_and_is_said(folder):
    content = """
    def helper(bwd):
        def decorated(f):
            rule = jax.custom_vjp(f)
            rule.defvjp(lambda x: (f(x), x), bwd)
            return rule
        return decorated
    funcnet_samples = {"helper": {"leave_out": "a decorator"}, "cube": {"leave_out": ""}}
    """
    rules = found(folder, content)
    assert names(rules) == ["square", "cube"]
    assert rules.notes == ("rules:helper is left out: a decorator",)


def test_samples_name_functions_that_call_rules(folder):
    content = """
    def loss(x): return square(x).sum()
    funcnet_samples = {"loss": "f32[2]", "sqaure": "f32[2]"}
    """
    assert names(found(folder, content)) == ["sqaure", "square", "cube", "loss"]
