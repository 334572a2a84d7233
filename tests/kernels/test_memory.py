"""What a call of a program asks of the system."""

from __future__ import annotations

import platform

import pytest

from tests.support.processes import run_python

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from funcnet import kernels

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

said = kernels.keep_memory() if KEEP else ""
negate = jax.jit(lambda x: -x)
x = jnp.ones(2**24, jnp.float32)  # 64 MB
counts = []
for _ in range(20):
    before = faults()
    negate(x).block_until_ready()
    counts.append(faults() - before)
print(said, min(counts[10:]), sep="|")  # of a busy machine some calls come before a result is freed
"""
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is not glibc")


def faults_a_call(keep, **environment):
    """What `keep_memory` says, and the faults of a call once the heap has its size."""
    said, faults = run_python(PROGRAM.replace("KEEP", str(keep)), **environment).split("|")
    return said, float(faults)


@pytest.mark.integration
@needs_glibc
def test_kept_memory_is_not_asked_for_again():
    """A result of 64 MB has 16,384 pages, or 32 where they are large, at every call; or none."""
    said, faults = faults_a_call(True)
    assert said.startswith("kept: glibc")
    assert faults < 10
    assert faults_a_call(False)[1] >= 32


@pytest.mark.integration
@needs_glibc
@pytest.mark.parametrize(
    "setting",
    [
        {"GLIBC_TUNABLES": "glibc.malloc.arena_test=8"},
        pytest.param({"MALLOC_TRIM_THRESHOLD_": "131072"}, marks=pytest.mark.slow),
    ],
)
def test_who_has_set_malloc_by_the_environment_is_obeyed(setting):
    said, faults = faults_a_call(True, **setting)
    (name,) = setting
    assert said == f"not kept: {name} says how glibc's malloc works"
    assert faults >= 32


@pytest.mark.integration
def test_elsewhere_it_does_nothing_and_says_so():
    program = """
import ctypes
from funcnet import kernels
class Other:
    def __init__(self, name): pass
ctypes.CDLL = Other
print(kernels.keep_memory())
"""
    assert run_python(program).strip() == "not kept: the C library is not glibc"
