"""One of each kind, added where CONTRIBUTING says and nowhere else, passes what is asked of it."""

from __future__ import annotations

import json
import pathlib
import re
import shutil

import pytest

from tests.support.processes import ROOT, python

pytestmark = pytest.mark.slow

# A file, a text in it (None: the end), and what is written before that text.
RULE = [
    (
        "funcnet/layers/_activations.py",
        None,
        '''

@jax.custom_vjp
def cube(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """The cube. Keeps x."""
    return _cube(x)


def _cube(x):
    x = _validate.floating("cube", "x", x)
    return (wide(x) ** 3).astype(x.dtype)


def _cube_fwd(x):
    return _cube(x), jnp.asarray(x)


def _cube_bwd(x, dy):
    return ((3 * wide(x) ** 2 * wide(dy)).astype(x.dtype),)


cube.defvjp(_cube_fwd, _cube_bwd)
''',
    ),
    ("funcnet/layers/__init__.py", "    dropout,\n    elu,", "    cube,\n"),
    ("funcnet/layers/__init__.py", '    "dropout",\n', '    "cube",\n'),
    ("funcnet/plain.py", '    "dropout",\n', '    "cube",\n'),
    ("funcnet/plain.py", None, "\n\ndef cube(x):\n    return x**3\n"),
    (
        "funcnet/catalogue/_activations.py",
        "    Row(\n        function=layers.softplus,",
        """    Row(
        function=layers.cube,
        plain=plain.cube,
        kind="elementwise",
        samples=activation_samples(),
        residual_bytes=lambda sample, itemsize: 0,
        batch=(0,),
        refusals=REFUSALS,
        bench=(bench.array(1000, 1000),),
    ),
""",
    ),
    ("README.md", "`softplus`,", "`cube`, "),
]
OPTIMIZER = [
    (
        "funcnet/optimizers/_momentum.py",
        None,
        '''

def damped(learning_rate: ScalarOrSchedule, damping: ArrayLike = 0.5):
    r"""Gradient descent at a share of the rate: $u = -\\eta (1 - d) g$."""

    def rule(t, tiny, learning_rate, damping):
        return lambda g, trace: (-learning_rate * (1 - damping) * g, None)

    scalars = hyperparameters("damped", learning_rate=learning_rate, damping=damping)
    return make_optimizer("damped", TraceState, rule, scalars, {})
''',
    ),
    ("funcnet/optimizers/_registry.py", "lion, momentum, nesterov, sgd\n", "damped, "),
    ("funcnet/optimizers/_registry.py", '    "lion":', '    "damped": Entry(damped, 0.5),\n'),
    ("funcnet/optimizers/__init__.py", "lion, momentum, nesterov, sgd\n", "damped, "),
    ("funcnet/optimizers/__init__.py", '    "lion",\n', '    "damped",\n'),
    ("README.md", "`lion`,", "`damped`, "),
    (
        "tests/support/optimizer_table.py",
        '    "lion": (opt.lion',
        """    "damped": (
        opt.damped,
        lambda learning_rate, damping=0.5: optax.chain(
            optax.scale(1 - damping), optax.sgd(learning_rate)
        ),
        {},
    ),
""",
    ),
]
NET = [
    (
        "funcnet/nets/_networks.py",
        "NETWORKS: dict",
        '''def narrow_net(classes: int, hidden: int = 3) -> Net:
    """affine(hidden) - relu - affine(classes)."""
    return two_layer_net(hidden, classes)


''',
    ),
    ("funcnet/nets/_networks.py", '    "resnet": resnet,\n', '    "narrow": narrow_net,\n'),
    ("funcnet/nets/__init__.py", "    two_layer_net,\n", "    narrow_net,\n"),
    ("funcnet/nets/__init__.py", '    "two_layer_net",\n', '    "narrow_net",\n'),
    ("README.md", "`two_layer_net`,", "`narrow_net`, "),
]
DATA = [
    (
        "funcnet/data/_sources.py",
        '    "synthetic": Source(make=synthetic),\n',
        '    "made": Source(make=lambda: synthetic(sizes=(200, 50, 50), seed=5)),\n',
    ),
    ("README.md", '"synthetic")', '"made" \\\\| '),
]
OPTION = [
    (
        "funcnet/cli/_train_options.py",
        "    momentum: Annotated[",
        '''    damping: Annotated[float | None, _own("damping")] = None
    """Share of the rate that is left out: damped."""
''',
    )
]
STUDY = [
    (
        "experiments/halving.py",
        None,
        '''"""Does halving halve?

    python -m experiments.halving
"""

import dataclasses

from experiments import _images, _study


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Nothing to choose."""


def measure(options):
    with _study.timed() as watch:
        half = 1.0 / 2.0
    yield watch.record({"of": 1.0}, {"half": half})


def draw(rows, folder):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([row["result"]["half"] for row in rows], "o")
    _images.save(figure, folder / "halving.png")


if __name__ == "__main__":
    _study.main("halving", __doc__, Options, measure, draw)
''',
    )
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files of the project with one more of each kind."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("funcnet", "experiments", "tests", "tools", "docs"):
        skipped = shutil.ignore_patterns("__pycache__", "figures", "records", "images")
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, folder / name)
    for file, before, text in RULE + OPTIMIZER + NET + DATA + OPTION + STUDY:
        path = folder / file
        content = path.read_text() if path.exists() else ""
        if before is None:
            path.write_text(content + text)
        else:
            assert before in content, f"{file}: the place to touch is not there: {before}"
            path.write_text(content.replace(before, text + before, 1))
    return folder


def run(copy, *arguments):
    """In the copy, whose own funcnet comes first."""
    return python("-m", *arguments, cwd=copy, PYTHONPATH=str(copy))


def passed(copy, words, *files):
    """How many of these tests passed, all of those that ran."""
    out = run(copy, "pytest", "-o", "addopts=--import-mode=importlib", *files, "-k", words)
    return int(re.findall(r"(\d+) passed", out)[-1])


KINDS = {
    "a rule": RULE,
    "a net": NET,
    "an optimizer": OPTIMIZER,
    "a data set": DATA,
    "an option": OPTION,
    "a study": STUDY,
}


@pytest.mark.parametrize("kind", KINDS)
def test_contributing_names_every_file_that_was_touched(kind):
    rows = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    (row,) = (row for row in rows if row.startswith(f"| {kind} "))
    for file, *_ in KINDS[kind]:
        parts = pathlib.PurePath(file)
        said = {"__init__.py": "door", "README.md": "README"}.get(parts.name, parts.name)
        assert said in row or f"`{parts.parent.name}/`" in row, (file, row)


def test_a_rule_is_proven_certified_and_measured(copy):
    files = ["tests/layers/test_rules.py", "tests/cli/test_certificate.py"]
    assert passed(copy, "cube", *files) >= 15
    assert "cube" in run(copy, "funcnet", "check", "cube")
    assert "cube" in run(copy, "funcnet", "bench", "--rules", "--only", "cube", "--seconds", "0.01")


def test_a_net_an_optimizer_a_data_set_and_an_option_train(copy):
    words = ["--data", "made", "--net", "narrow", "--optimizer", "damped", "--damping", "0.25"]
    run(copy, "funcnet", "train", *words, "--epochs", "1", "--out", "run")
    config = json.loads((copy / "run/config.json").read_text())
    assert config["options"]["optimizer"]["damping"] == 0.25
    files = ["tests/optimizers/test_optax.py", "tests/optimizers/test_use.py"]
    assert passed(copy, "damped or default", *files, "tests/cli/test_options.py") >= 5


def test_a_study_runs_and_is_drawn(copy):
    assert passed(copy, "halving", "tests/house/test_studies.py") >= 2


def test_the_house_stands(copy):
    words = "not floors"
    assert passed(copy, words, "tests/house/test_house.py", "tests/house/test_additions.py") >= 5
    assert passed(copy, "named", "tests/house/test_readme.py") == 2  # nets, rules, data sets
