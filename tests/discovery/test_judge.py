"""Verdicts: of rules on their samples, and on what those get who are called by others."""

import pytest

from funcnet import discovery
from tests.support import strangers
from tests.support.strangers import RULES, write
from tests.support.threads import ended

folder = strangers.folder
FEW = {"checks": ["structure", "value", "cotangent"]}


def judged(folder, content, target="rules.py", **options):
    write(folder, {"rules.py": RULES})
    path = folder / "rules.py"
    path.write_text(path.read_text() + strangers.textwrap.dedent(content))
    found = discovery.find(discovery.load(target))
    return {one.name: one for one in discovery.Judge(found, options=FEW, **options).all()}


def test_right_wrong_and_without_samples(folder):
    found = judged(folder, 'funcnet_samples = {"cube": "f32[2]"}')
    assert [found[name].verdict for name in ("square", "cube")] == ["cannot be judged", "wrong"]
    cube = found["cube"]
    assert (cube.label, cube.file, cube.origin) == (
        "rules:cube", str(folder / "rules.py"), "funcnet_samples['cube']"
    )  # fmt: skip
    assert "_cube_bwd" in (folder / "rules.py").read_text().splitlines()[cube.line - 1]
    assert cube.headline.startswith("cotangent: x[")
    assert "factor of 1/3" in cube.text or "factor of 0.333" in cube.text
    assert found["square"].reason.startswith("no sample inputs: x has no annotation; say some")
    assert discovery.exit_code(found.values()) == 1
    assert discovery.exit_code([found["square"]]) == 3


def test_each_sample_is_judged(folder):
    found = judged(folder, 'funcnet_samples = {"square": ["f32[2]", "f32[3]"], "cube": []}')
    assert list(found) == ["square", "square/1", "cube"]
    assert found["square/1"].verdict == "right"
    assert found["cube"].reason == "its list of sample inputs is empty"


@pytest.mark.integration
def test_a_rule_takes_what_a_caller_with_samples_gives_it(folder):
    content = """
    @jax.custom_vjp
    def picked(x, i):
        return x[i]
    def _picked_bwd(r, g):
        x, i = r
        return jnp.zeros_like(x).at[i].set(2 * g), None
    picked.defvjp(lambda x, i: (x[i], (x, i)), _picked_bwd)

    @jax.jit
    def loss(x):
        return square(picked(x + 1, jnp.array([2, 0]))).sum()

    def batched(x):
        return jax.vmap(cube)(x)

    funcnet_samples = {"loss": "f32[3]", "batched": "f32[3,2]"}
    """
    found = judged(folder, content)
    verdicts = {name: one.verdict for name, one in found.items()}
    assert verdicts == {
        "square": "right", "cube": "wrong", "picked": "wrong", "loss": "wrong", "batched": "wrong",
    }  # fmt: skip
    assert found["picked"].origin == "a call in loss"
    assert found["cube"].origin == "a call in batched"


def test_annotated_callers_do_too(folder):
    content = """
    from jaxtyping import Array, Float
    def loss(x: Float[Array, "n"]):
        return square(x + 1).sum()
    """
    found = judged(folder, content)
    assert (found["square"].verdict, found["square"].origin) == ("right", "a call in loss")
    assert "loss" not in found


def test_samples_in_a_module_of_their_own(folder):
    write(folder, {"rules.py": RULES})
    write(
        folder,
        {"samples.py": "from rules import square\nfuncnet_samples = {'square': 'f32[2]'}"},
    )
    parts = [discovery.find(discovery.load(word)).rules for word in ("rules.py", "samples.py")]
    assert [[rule.label for rule in part] for part in parts] == [
        ["rules:square", "rules:cube"],
        ["samples:square"],
    ]
    found = discovery.Found((*parts[0], *parts[1]))
    origins = [(one.verdict, one.origin) for one in discovery.Judge(found, options=FEW).all()]
    assert origins == [
        ("right", "a call in square"),
        ("cannot be judged", ""),
        ("right", "funcnet_samples['square']"),
    ]


@pytest.mark.integration
def test_rules_that_are_made_in_a_function(folder):
    content = """
    def hidden(x, wrong):
        @jax.custom_vjp
        def f(x): return x
        f.defvjp(lambda x: (x, None), lambda _, g: (g + wrong,))
        return f(x)
    def make(n):
        @jax.custom_vjp
        def f(x): return n * x
        f.defvjp(lambda x: (n * x, None), lambda _, g: (n * g,))
        return f
    def caller(x): return make(3)(x)
    funcnet_samples = {"hidden": "f32[2], 1.0", "caller": "f32[2]"}
    """
    found = judged(folder, content)
    assert found["hidden"].verdict == "wrong"
    assert (found["make"].verdict, found["make"].origin) == ("right", "a call in caller")


@pytest.mark.integration
def test_a_jvp_is_compared_with_its_function(folder):
    content = """
    @jax.custom_jvp
    def sine(x): return jnp.sin(x)
    sine.defjvps(lambda t, y, x: jnp.cos(x) * t)
    @jax.jit
    @jax.custom_jvp
    def twice(x): return 2 * x
    @twice.__wrapped__.defjvp
    def _twice_jvp(x, t): return 2 * x[0], 3 * t[0]
    @jax.custom_jvp
    def scaled(x, by): return x * by
    scaled.defjvps(lambda t, y, x, by: 3 * t, None)
    half = functools.partial(jax.jit(scaled), by=0.5)
    funcnet_samples = {"sine": "f32[2]", "twice": "f32[2]", "half": "f32[2]"}
    """
    found = judged(folder, content)
    verdicts = [found[name].verdict for name in ("sine", "twice", "scaled")]
    assert verdicts == ["right", "wrong", "wrong"]
    (one,) = judged(folder, "", "rules.py:half").values()
    assert (one.verdict, "cotangent" in one.headline) == ("wrong", True)


def test_what_raises_hides_nothing_else(folder):
    content = """
    def raises(x): raise RuntimeError("inside")
    funcnet_samples = {"raises": "f32[2]", "square": "f32[2], 1", "cube": "f32[2]", "no": ()}
    """
    found = judged(folder, content)
    assert {name: one.verdict for name, one in found.items()} == {
        "square": "cannot be judged", "cube": "wrong", "raises": "cannot be judged",
        "no": "cannot be judged",
    }  # fmt: skip
    assert found["raises"].reason == "raises: RuntimeError: inside"
    assert 'raise RuntimeError("inside")' in found["raises"].trace
    assert "has no function no" in found["no"].reason


def test_a_module_that_does_not_import(folder):
    write(folder, {"broken.py": "import nowhere"})
    (one,) = judged(folder, "", "broken.py").values()
    assert (one.verdict, one.label) == ("cannot be judged", "broken")
    assert one.reason.startswith("broken does not import: ModuleNotFoundError")


def test_a_rule_that_takes_too_long_is_not_judged(folder):
    found = judged(folder, 'funcnet_samples = {"square": dict(args="f32[2]", seconds=1e-3)}')
    reason = found["square"].reason
    assert found["square"].verdict == "cannot be judged"
    assert reason.startswith("not run within 0.001 seconds")
    ended()


@pytest.mark.parametrize(
    ("verdicts", "fail_on", "code"),
    [
        ("", "", 0),
        ("right", "", 0),
        ("right,imprecise,by design", "", 0),
        ("right,wrong,cannot be judged", "", 1),
        ("right,cannot be judged", "", 3),
        ("imprecise,cannot be judged", "imprecise", 1),
        ("by design", "imprecise", 0),
        ("cannot be judged", "cannot be judged", 1),
    ],
)
def test_exit_codes(verdicts, fail_on, code):
    found = [discovery.Judgement("f", "m", word) for word in verdicts.split(",") if word]
    assert discovery.exit_code(found, fail_on.split(",")) == code
