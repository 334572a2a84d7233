"""Other people's files and packages with rules, written where a test needs them."""

import sys
import textwrap

import pytest

RULES = """
import functools
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import relu

@jax.custom_vjp
def square(x):
    return x**2

def _square_bwd(x, g):
    return (2 * x * g,)

square.defvjp(lambda x: (x**2, x), _square_bwd)

@jax.custom_vjp
def cube(x):
    return x**3

def _cube_bwd(x, g):
    return (x**2 * g,)

cube.defvjp(lambda x: (x**3, x), _cube_bwd)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder; what is imported from it is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in sorted(set(sys.modules) - before, reverse=True):  # parents last
        place = getattr(sys.modules[name], "__file__", None) or ""
        paths = [str(path) for path in getattr(sys.modules[name], "__path__", [])]
        if any(path.startswith(str(tmp_path)) for path in (place, *paths)):
            del sys.modules[name]


def write(folder, files):
    """Writes files by their names; a package's __init__ comes by itself where it is asked for."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content))
