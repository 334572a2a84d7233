"""Sample inputs: every form that they may have, in the order in which they are asked for."""

import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import discovery
from tests.support import strangers
from tests.support.strangers import RULES

folder = strangers.folder


def samples(folder, content, file="rules.py", **options):
    """The samples of `square` in a file with this content."""
    (folder / file).write_text(RULES + textwrap.dedent(content))
    rule = discovery.find(discovery.load(file)).rules[0]
    assert rule.name == "square"
    return discovery.samples_of(rule, **options)


FORMS = {
    "a tuple": ("(np.ones(2),)", [((2,), {})]),
    "an array": ("np.ones(2)", [((2,), {})]),
    "a text": ("'f32[2], axis=0'", [((2,), {"static": {"axis": 0}})]),
    "a dict": ("dict(args=(np.ones(2),), smooth=False)", [((2,), {"smooth": False, "static": {}})]),
    "a dict with a text": (
        "dict(args='f32[2], axis=0', static={'mode': 1})",
        [((2,), {"static": {"axis": 0, "mode": 1}})],
    ),
    "a list": ("[(np.ones(2),), 'f32[3]']", [((2,), {}), ((3,), {})]),
    "a function": ("lambda rng: (rng.normal(size=2),)", [((2,), {})]),
    "a function of nothing": ("lambda: 'f32[2]'", [((2,), {})]),
    "a function that yields": (
        "lambda rng: (f'f32[{n}]' for n in (1, 2))",
        [((1,), {}), ((2,), {})],
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "place", ["funcnet_samples = {'square': %s}", "square.funcnet_sample = %s"]
)
def test_forms(folder, form, place):
    text, expected = FORMS[form]
    found = samples(folder, place % text)
    assert [(sample.args[0].shape, sample.options) for sample in found] == expected


def test_a_plain_function_by_its_name(folder):
    content = """
    def plain(x): return x * x
    funcnet_samples = {"square": {"args": "f32[2]", "plain": "plain"}}
    """
    (sample,) = samples(folder, content)
    assert sample.options["plain"](3) == 9


def test_what_is_called_is_what_the_sample_names(folder):
    content = """
    moved = functools.partial(jax.jit(lambda f, x: f(x + 1)), square)
    shifted = functools.wraps(square)(lambda x, by: square(x + by))
    funcnet_samples = {"shifted": "f32[2], 1.0"}
    """
    (sample,) = samples(folder, content)
    assert (sample.function(jnp.ones(1), 2.0), sample.args[1]) == (9, 1.0)


def test_the_order(folder):
    annotated = """
    from jaxtyping import Array, Float
    square.fun.__annotations__["x"] = Float[Array, "5"]
    """.strip("\n").rstrip(" ")
    older = "    def square_samples(): return (np.ones(4),)\n"
    attribute = "    square.funcnet_sample = lambda rng: 'f32[3]'\n"
    table = "    funcnet_samples = {'square': 'f32[2]'}\n"
    texts = {5: annotated, 4: annotated + older, 3: annotated + older + attribute}
    texts[2] = texts[3] + table
    for size, text in texts.items():
        (found,) = samples(folder, "\n" + text, f"rules{size}.py")
        assert found.args[0].shape == (size,)


def test_annotations_are_drawn_as_often_as_asked(folder):
    content = """
    from jaxtyping import Array, Float
    square.fun.__annotations__["x"] = Float[Array, "n d"]
    """
    found = samples(folder, content, examples=5)
    assert len({sample.args[0].shape for sample in found}) > 1
    assert {sample.origin for sample in found} == {"its annotations"}
    rule = discovery.find(discovery.load("rules.py")).rules[0]
    again = discovery.samples_of(rule, examples=5)
    assert all((a.args[0] == b.args[0]).all() for a, b in zip(found, again, strict=True))
    assert discovery.samples_of(rule, seed=1)[0].args[0].shape != () != found[0].args[0].shape


def test_functions_are_asked_with_another_generator_each_time(folder):
    found = samples(folder, "square.funcnet_sample = lambda rng: (rng.normal(size=2),)", examples=2)
    assert not np.allclose(found[0].args[0], found[1].args[0])
    once = samples(folder, "square.funcnet_sample = (1.0,)", "once.py", examples=2)
    assert len(once) == 1


WRONG = {
    "funcnet_samples = {'square': 3}": "square'] is a int, expected a tuple of arguments, a text",
    "funcnet_samples = {'square': {'arg': 3}}": "a dict without args; it has arg",
    "funcnet_samples = {'square': {'args': (), 'sed': 3}}": "no option 'sed'; perhaps seed",
    "funcnet_samples = {'square': {'args': (), 'plain': 'no'}}": "rules has no function no",
    "funcnet_samples = {'square': 'f32[a]'}": r"square'\]: f32\[a\]: a is no dtype",
    "funcnet_samples = {'square': lambda rng: 1 / 0}": "square: ZeroDivisionError",
    "square.funcnet_sample = lambda rng: exit(0)": "square: SystemExit",
}


@pytest.mark.parametrize("content", WRONG)
def test_what_is_no_sample(folder, content):
    with pytest.raises(discovery.SampleError, match=WRONG[content]):
        samples(folder, content)


def test_without_samples_a_line_says_how_to_mend_it(folder):
    with pytest.raises(discovery.NoSampleError) as error:
        samples(folder, "")
    line = str(error.value).partition("say some in rules: ")[2]
    assert line == 'funcnet_samples = {"square": "f32[3,4]"}  # x'
    with pytest.raises(discovery.NoSampleError) as error:
        samples(folder, "\nfuncnet_samples = {'cube': 'f32[2]'}", "other.py")
    more = str(error.value).partition("say some in other: ")[2]
    assert more == 'funcnet_samples["square"] = "f32[3,4]"  # x'
    assert samples(folder, line, "mended.py")[0].args[0].shape == (3, 4)
