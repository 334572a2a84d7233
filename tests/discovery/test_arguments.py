"""Sample arguments in words: what they make, and that nothing else is evaluated."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from funcnet import discovery


class Pair(NamedTuple):
    a: object
    b: object = None


def one(word, space=None):
    (value,) = discovery.words([word], np.random.default_rng(0), space).args
    return value


ARRAYS = {
    "5x4": ("float64", (5, 4)),
    "4": ("float64", (4,)),
    "5:int10": ("int32", (5,)),
    "f32[3,4]": ("float32", (3, 4)),
    "float32[3, 4]": ("float32", (3, 4)),
    "bf16[2]": ("bfloat16", (2,)),
    "f64": ("float64", ()),
    "f16[]": ("float16", ()),
    "i32[8]:0..5": ("int32", (8,)),
    "u8[2]": ("uint8", (2,)),
    "bool[3]": ("bool", (3,)),
    "c64[2,1]": ("complex64", (2, 1)),
    "f32[3]:-1.5..2e1": ("float32", (3,)),
    "f32:1..2": ("float32", ()),
    "i32[0]": ("int32", (0,)),
}


@pytest.mark.parametrize("word", ARRAYS)
def test_arrays(word):
    value = one(word)
    assert (value.dtype.name, value.shape) == ARRAYS[word]


def test_ranges_are_held_to():
    assert set(one("i32[200]:-2..1").tolist()) == {-2, -1, 0}
    drawn = one("f32[200]:-1.5..-1")
    assert ((drawn >= -1.5) & (drawn <= -1)).all()
    assert set(one("i32[200]").tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("0.5", 0.5),
        ("-3", -3),
        ("+4", 4),
        ("int(4)", 4),
        ("float(4)", 4.0),
        ("1e-5", 1e-5),
        ("inf", float("inf")),
        ("None", None),
        ("True", True),
        ("'SAME'", "SAME"),
        ('"f32[2]:0..1 @jax:x"', "f32[2]:0..1 @jax:x"),
        ("[]", []),
        ("((1, 2), (3, 'x'))", ((1, 2), (3, "x"))),
        ("@jax.numpy:tanh", jax.numpy.tanh),
        ("@jax:numpy.tanh", jax.numpy.tanh),
    ],
)
def test_other_values(word, value):
    assert one(word) == value


def test_trees_and_keys_and_names_of_the_module():
    tree = one('{"w": f32[3,2], "b": [f32[2]:0..1, None], 3: (i32[1], 4)}')
    assert (tree["w"].shape, tree["b"][1], tree[3][1]) == ((3, 2), None, 4)
    assert jax.numpy.issubdtype(one("key").dtype, jax.dtypes.prng_key)
    assert one("key[2,3]").shape == (2, 3)
    made = one("@Pair(f32[1], b=(2, 3))", {"Pair": Pair})
    assert (made.a.shape, made.b) == ((1,), (2, 3))
    assert one("@x.tanh", {"x": np}) is np.tanh


def test_options_come_last():
    call = discovery.words(["f32[2]", "axis=0", "mode='same'"], np.random.default_rng(0))
    assert (len(call.args), call.static) == (1, {"axis": 0, "mode": "same"})
    call = discovery.text("f32[2], (1, 2), axis=-1", np.random.default_rng(0))
    assert (call.args[1], call.static) == ((1, 2), {"axis": -1})
    with pytest.raises(discovery.ArgumentError, match="options come after arguments"):
        discovery.words(["axis=0", "f32[2]"], np.random.default_rng(0))


WRONG = {
    "x": "x is no dtype; a string has quotes",
    "f32[3": "expected a shape",
    "f32[-1]": "expected sizes",
    "f32[a]": "a is no dtype",
    "q8[3]": "q8 is no dtype; expected f16",
    "i32[3]:5..0": "expected a range from low to high",
    "i32[3]:0..0.5": "expected a range of ints",
    "f32[100000,100000]": "expected at most",
    "@nowhere:f": "there is no nowhere:f",
    "@f": "there is no f",
    "@Pair(1, 2, 3)": "it raised TypeError",
    "@os:system('true')": "expected a NamedTuple or a dataclass",
    "{[1]: 2}": "expected keys",
    "": "expected a shape",
    "\0": "expected a shape",
    "(" * 500: "expected a shape",
}
CODE = [
    *("__import__('os')", "().__class__", "open('x')", "print", "lambda: 1", "[x for x in (1,)]"),
    *("1 + 1", "2 ** 9", "f'{1}'", "a.b", "f32[1:2]", "(x := 1)", "not True", "~1", "**{}", "*()"),
    *("_named('os:system')('true')._between(0, 1)", "b'x'", "...", "{**{}}", "1 if 1 else 2"),
]


@pytest.mark.parametrize("word", [*WRONG, *CODE])
def test_nothing_else_is_an_argument(word):
    with pytest.raises(discovery.ArgumentError, match=WRONG.get(word)):
        one(word, {"Pair": Pair})
