"""One process-wide setting for the suite: float64 at hand, no silent promotion or broadcasting.

Hundreds of small programs are compiled once and run once, so XLA compiles them without optimising;
`FUNCNET_TEST_OPTIMIZED=1` compiles them as users do, as the tests of the slow lane and
`tests/house/test_modes.py` do in any case. What was compiled once, here or in a process that a
test starts, is read from `.jax_cache` the next time.
"""

import gc
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{pathlib.Path(__file__).parent}/.jax_cache")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Below pytest each operation carries sixty frames of Python into its program, unread.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import numpy as np
import optax
import pytest

from funcnet import _machine

if not os.environ.get("FUNCNET_TEST_OPTIMIZED"):  # before XLA starts, which reads them once
    os.environ.setdefault("XLA_FLAGS", _machine.quick_compile_flags())

pytest.register_assert_rewrite("tests.support")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

collect_ignore = [
    "funcnet/bench/_torch_worker.py",  # a script for a process with torch
    "funcnet/augment.py",  # a former name, which warns
]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the test's own name: neither the order nor the file matters."""
    return np.random.default_rng(list(request.node.name.encode()))


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

    doctest_namespace.update(jax=jax, jnp=jax.numpy, np=np, optax=optax)
    doctest_namespace.update({name: getattr(layers, name) for name in layers.__all__})


_NAMES = pytest.StashKey[list]()


def pytest_configure(config: pytest.Config) -> None:
    """Registers the mark by which a test names the rows of the courses that it covers."""
    config.addinivalue_line("markers", "courses(*rows): rows of the courses that a test covers")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps each test's name and rows for the summary, of the integration lane too.

    A worker hands them to its controller.
    """
    names = [
        [item.name, [row for mark in item.iter_markers("courses") for row in mark.args]]
        for item in items
        if item.get_closest_marker("slow") is None
    ]
    config.stash[_NAMES] = names
    if hasattr(config, "workeroutput"):
        config.workeroutput["names"] = names


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keeps the garbage collector from walking again, after every few traces, what stays anyway.

    What was imported and collected stays to the end; that was a twentieth of the suite's time.
    """
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Neighbours stay in one process, which has their small programs; who is idle helps."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Takes over what a worker has collected."""
    names = getattr(node, "workeroutput", {}).get("names", [])
    node.config.stash[_NAMES] = names  # every worker collects all tests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many rows of the courses the collected tests cover, and lists the rest."""
    names = terminalreporter.config.stash.get(_NAMES, [])
    if not any(name.startswith("test_rows_of_the_courses") for name, _ in names):
        return  # a part of the suite says nothing of the whole
    from tests.support import course_rows

    rows = course_rows.covered(names)
    terminalreporter.write_line(f"courses: {len(rows)} of {len(course_rows.ALL)} rows in tests")
    for reason, excused in course_rows.REASONS.items():
        rest = [row for row in excused if row not in rows]
        terminalreporter.write_line(f"  {len(rest)} not: {reason}: {' '.join(rest)}")
