"""One process-wide setting for the suite: float64 at hand, no silent promotion or broadcasting."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the test's own name, so that tests do not depend on their order."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture
def data_dir() -> pathlib.Path:
    """The folder with the real data sets; without it the test skips and says so."""
    folder = os.environ.get("FUNCNET_DATA_DIR")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("FUNCNET_DATA_DIR names no folder: the real data sets are not at hand")
    return pathlib.Path(folder)


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace: dict) -> None:
    """What the examples in docstrings may use without importing it."""
    from funcnet import layers

    doctest_namespace.update(jax=jax, jnp=jax.numpy, np=np)
    doctest_namespace.update({name: getattr(layers, name) for name in layers.__all__})
