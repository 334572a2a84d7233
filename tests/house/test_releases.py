"""What funcnet takes from jax beside its documented face, by name: where a release breaks us.

When a new jax comes, run these first. Each failure says what is gone and which file asks for it.
"""

import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import _machine


def kinds(function, *args):
    """The names of the primitives that a function's program is made of."""
    return {equation.primitive.name for equation in jax.make_jaxpr(function)(*args).jaxpr.eqns}


@jax.custom_vjp
def rule(x):
    return x


rule.defvjp(lambda x: (x, None), lambda _, dy: (dy,))


def primitives_can_be_made():
    from jax.extend.core import Primitive, jaxpr_as_fun
    from jax.interpreters import ad, batching, mlir

    assert callable(Primitive("tried").def_impl)
    assert callable(Primitive("tried").def_abstract_eval)
    assert hasattr(ad.primitive_jvps, "__setitem__")
    assert hasattr(batching.primitive_batchers, "__setitem__")
    assert callable(ad.deflinear2)
    assert callable(ad.instantiate_zeros)
    assert callable(mlir.lower_fun)
    assert callable(mlir.register_lowering)
    assert jaxpr_as_fun(jax.make_jaxpr(jnp.sin)(0.0))(0.0) == [0.0]


def rules_show_their_parts():
    assert {"fun", "fwd", "bwd", "nondiff_argnums"} <= set(dir(rule))


def jaxprs_name_rules():
    assert kinds(rule, 1.0) == {"custom_vjp_call"}


def jaxprs_name_convolutions():
    x = jnp.ones((1, 2, 2, 1))

    def convolve(x):
        return jax.lax.conv_general_dilated(x, x, (1, 1), "VALID")

    assert "conv_general_dilated" in kinds(convolve, x)


def jaxprs_name_their_lines():
    from jax.extend.source_info_util import summarize

    (equation,) = jax.make_jaxpr(lambda x: x + 1.0)(0.0).jaxpr.eqns
    assert __file__ in summarize(equation.source_info)


def keys_have_a_dtype():
    assert jnp.issubdtype(jax.random.key(0).dtype, jax.dtypes.prng_key)
    assert jnp.issubdtype(jax.random.key(0).dtype, jax.dtypes.extended)


def settings_can_be_read():
    assert {
        *("jax_enable_x64", "jax_compilation_cache_dir", "jax_enable_compilation_cache"),
        "jax_persistent_cache_min_compile_time_secs",
    } <= set(jax.config.values)


def programs_tell_their_memory():
    program = jax.jit(jnp.sin).lower(jnp.ones(8)).compile()
    assert program.memory_analysis().argument_size_in_bytes == 64


def lowering_knows_its_devices():
    from jax.extend.core import Primitive
    from jax.interpreters import mlir

    seen = []

    def lowered(context, x):
        seen.append(context.module_context.axis_context.num_devices)
        return [x]

    tried = Primitive("tried")
    tried.def_abstract_eval(lambda x: x)
    mlir.register_lowering(tried, lowered)
    jax.jit(tried.bind).lower(1.0)
    assert seen == [1]


def quick_flags_are_known():
    environment = {**os.environ, "XLA_FLAGS": _machine.quick_compile_flags()}
    asked = [sys.executable, "-c", "import jax; jax.devices()"]
    ended = subprocess.run(asked, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


RELIED_ON = {
    primitives_can_be_made: "kernels/_lowering.py, _jaxprs.py",
    rules_show_their_parts: "checks/_rules.py, tools/site/api.py",
    jaxprs_name_rules: "checks/_rules.py",
    jaxprs_name_convolutions: "train/_epoch.py",
    jaxprs_name_their_lines: "train/contract.py",
    keys_have_a_dtype: "train/_step.py, checkpoint/_arrays.py, checks/_problem.py",
    settings_can_be_read: "cli/_info_command.py, bench/_programs.py, checks/_resume.py",
    programs_tell_their_memory: "bench/_programs.py",
    lowering_knows_its_devices: "kernels/_lowering.py",
    quick_flags_are_known: "conftest.py, checks/_problem.py, cli/_check_command.py",
}


@pytest.mark.parametrize("holds", RELIED_ON, ids=lambda holds: holds.__name__)
def test_jax_still_has_what_funcnet_takes_from_it(holds):
    try:
        holds()
    except Exception as error:
        raise AssertionError(
            f"jax {jax.__version__} no longer gives what {RELIED_ON[holds]} ask of it: "
            f"{holds.__name__.replace('_', ' ')}"
        ) from error


def test_quick_compile_flags_were_tried_with_this_jaxlib():
    release = metadata.version("jaxlib")
    assert _machine.quick_compile_options(), (
        f"jaxlib {release} is newer than any that the flags in funcnet/_machine.py were tried "
        "with: the suite is right but slow. Try each flag, and move its bound."
    )


@pytest.mark.parametrize("release", ["0.10.2", "0.12.0.1", "0.13.0", "1.0"])
def test_quick_compile_flags_end_where_they_are_not_known(monkeypatch, release):
    monkeypatch.setattr(metadata, "version", lambda package: release)
    names = set(_machine.quick_compile_options())
    assert ("xla_cpu_use_fusion_emitters" in names) == release.startswith("0.10")
    assert bool(names) == release.startswith(("0.10", "0.12"))


def test_one_private_name_of_jax_is_imported():
    """There is no public one for it; `tests/kernels/test_meshes.py` fails where it moves."""
    folder = Path(util.find_spec("funcnet").origin).parent
    lines = [
        f"{path.name}: {line.strip()}"
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "jax._src" in line or "jaxlib._" in line
    ]
    name = "prim_requires_devices_during_lowering"
    assert lines == [f"_partitioned.py: from jax._src.dispatch import {name}"]


def test_shared_outputs_under_vmap_have_the_right_gradient():
    """A rule one of whose outputs no mapped argument reaches: 0.10 counts its cotangent n times."""
    from funcnet import layers

    x, gammas = np.random.default_rng(0).normal(size=(5, 3)), np.ones((4, 3))

    def mapped(x):
        def one(gamma):
            y, stats = layers.batch_norm(layers.NormParams(gamma, jnp.zeros(3)), x)
            return jnp.sin(y).sum() + stats.mean.sum()

        return jax.vmap(one)(gammas).sum()

    def looped(x):
        y, _ = layers.batch_norm(layers.NormParams(gammas[0], jnp.zeros(3)), x)
        return 4 * jnp.sin(y).sum()

    one_way, other_way = (jax.jit(jax.grad(loss))(x) for loss in (mapped, looped))
    np.testing.assert_allclose(one_way, other_way, rtol=1e-12, atol=1e-12)
