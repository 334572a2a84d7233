"""The scorecard: complete tables, equal numbers on all sides, files, and how it says no.

No time is ever asserted; the shapes here are so small that their times mean nothing.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import bench, catalogue, layers, plain
from funcnet.bench import _cases, _programs, _runs, _settings, _steps, _torch, peers
from funcnet.bench._timing import interleaved
from tests.support import bench_cases
from tests.support.bench_cases import BLINK, WITH_OPTIONS, measured, small
from tests.support.lanes import by_default

_as_users_have_it, _one_core = bench_cases.as_users_have_it, bench_cases.one_core


# --- The tables are complete


def test_every_row_of_the_catalogue_says_what_it_is_measured_with():
    for name, row in catalogue.ROWS.items():
        assert row.bench, name
        assert len({case.label for case in row.bench}) == len(row.bench), name


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(catalogue.ROWS, {"conv2d", "batch_norm", "dropout"}))
def test_cases_are_float32_and_the_rule_takes_them(name):
    row = catalogue.ROWS[name]
    for case in row.bench:
        arrays = [a for a in jax.tree.leaves(case.arguments()) if not isinstance(a, str)]
        assert {a.dtype.name for a in arrays} <= {"float32", "int32"}, case.label
        arguments = _programs.Arguments(case.arguments())
        ours, theirs = (
            jax.eval_shape(
                lambda *leaves, f=f, a=arguments, c=case: f(
                    *jax.tree.unflatten(a.tree, leaves), **c.static
                ),
                *arguments.leaves,
            )
            for f in (row.function, row.plain)
        )
        shapes = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(o)] for o in (ours, theirs)]
        assert shapes[0] == shapes[1], case.label


def test_cases_are_the_same_at_each_call():
    for one, two in zip(
        *(catalogue.ROWS["affine"].bench[0].arguments() for _ in "12"), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_shapes_that_are_to_be_measured_are_there():
    convolutions = {case.label for case in catalogue.ROWS["conv2d"].bench}
    assert {"5×5, 3→32, 32×32", "3×3, 64→64, 32×32", "3×3, 64→128, 8×8"} <= convolutions
    assert "2×2, 100×32×32×32" in {case.label for case in catalogue.ROWS["max_pool"].bench}
    dense, convolutional = {"fc500x3", "fc100x5", "course_000"}, {"three_conv", "modern_convnet"}
    assert set(bench.STEPS) == dense | convolutional | {"course_004_convnet"}


@pytest.mark.parametrize("name", bench.STEPS)
def test_every_step_has_a_net_with_ten_outputs(name):
    spec = bench.STEPS[name]
    net = _steps.build(spec)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), spec.input_shape))
    x = jnp.zeros((2, *spec.input_shape), jnp.float32)
    y = jax.eval_shape(lambda p, s: net.apply(p, s, x, train=True)[0], *shapes)
    assert y.shape == (2, 10)


# --- Rules


def test_both_sides_and_what_is_kept_of_them():
    (result,) = measured(["batch_norm"]).results
    ours, autodiff = result.contenders
    assert (ours.name, autodiff.name) == ("funcnet", "autodiff")
    for side in result.contenders:
        assert list(side.timings) == ["forward", "forward_backward"]
        for timing in side.timings.values():
            assert 0 < timing.low_seconds <= timing.seconds <= timing.high_seconds
            assert timing.repetitions >= 3
        assert side.temporary_bytes >= 0
    # A mean and a scale for each of 20 channels or so, against whole arrays.
    assert ours.residual_bytes < autodiff.residual_bytes
    assert result.notes == ()
    assert result.ratio("autodiff") == pytest.approx(
        ours.timings["forward_backward"].seconds / autodiff.timings["forward_backward"].seconds
    )
    assert result.ratio("nobody") is None


@pytest.mark.parametrize("name", ["relu", "max_pool", "layer_norm", "dropout"])
def test_residual_bytes_are_those_of_the_catalogue(name):
    row, case = catalogue.ROWS[name], small(name)
    arguments = _programs.Arguments(case.arguments())
    found = _programs.residual_bytes(lambda *args: row.function(*args, **case.static), arguments)
    assert found == row.residual_bytes(catalogue.Sample(case.arguments(), case.static), 4)


def test_work_is_counted():
    (affine,) = measured(["affine"]).results
    (w, b), x = small("affine").arguments()
    n, d, m = len(x), *w.shape
    assert affine.flops == {"forward": 2 * n * d * m, "forward_backward": 6 * n * d * m}
    forward = 4 * (w.size + b.size + x.size + n * m)
    assert affine.least_bytes["forward"] == forward
    assert affine.least_bytes["forward_backward"] == forward + 4 * (
        n * m + w.size + b.size + x.size
    )


def test_a_wrong_rule_is_found_out(monkeypatch):
    @jax.custom_vjp
    def relu(x):
        return jnp.maximum(x, 0)

    relu.defvjp(lambda x: (relu(x), x), lambda x, dy: (dy * (x > -0.5),))
    row = catalogue.ROWS["relu"]
    wrong = dataclasses.replace(row, function=relu)
    monkeypatch.setitem(catalogue.ROWS, "relu", wrong)
    report = measured(["relu"])
    assert re.search(
        r"funcnet disagrees with autodiff: array 1 differs", report.results[0].notes[0]
    )
    assert "disagrees" in bench.to_markdown(report)


def test_variants_are_traced_each_in_its_own_context(monkeypatch):
    monkeypatch.delenv("FUNCNET_TEST_VARIANT", raising=False)
    seen = []
    row = catalogue.ROWS["relu"]

    @jax.jit
    def inner(x):
        import os

        seen.append(os.environ.get("FUNCNET_TEST_VARIANT"))
        return row.plain(x)

    def relu(x):
        return inner(x)

    monkeypatch.setitem(catalogue.ROWS, "relu", dataclasses.replace(row, function=relu))
    variants = [
        bench.Variant("pure", bench.environment(FUNCNET_TEST_VARIANT="0")),
        bench.Variant("native", bench.environment(FUNCNET_TEST_VARIANT="1")),
    ]
    report = measured(["relu"], variants=variants)
    assert [c.name for c in report.results[0].contenders] == ["pure", "native", "autodiff"]
    assert list(dict.fromkeys(seen)) == ["0", "1"]
    assert "/native" in bench.to_markdown(report)


@pytest.mark.parametrize("peer", ["flax", "equinox"])
def test_jax_peers_compute_the_same(peer):
    pytest.importorskip(peer)
    having = [
        name
        for name, row in catalogue.ROWS.items()
        if peers.JAX_PEERS[peer](name, row.bench[0].static)
    ]
    assert len(having) >= 12
    # Those that are made differently: the rest are one call each, compared when they are measured.
    names = {"affine_batch_norm_relu", "conv_relu_pool", "avg_pool", "group_norm", "rms_norm"}
    names |= {"conv1d", "conv2d_transpose"}.intersection(having)
    report = measured([n for n in having if n in names], peers=(peer,))
    assert len(report.results) == len(names)
    options = bench.rules(["conv2d"], cases={"conv2d": WITH_OPTIONS}, peers=(peer,), **BLINK)
    assert len(options.results) == len(WITH_OPTIONS)
    for result in report.results + options.results:
        assert result.notes == ()
        assert result.contender(peer).timings["forward_backward"].seconds > 0


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("torch", reason='torch is not installed: "funcnet[bench]"')
    with _torch.torch() as peer:
        peer.sides = {"torch": False, "torch bf16": True}  # whatever this CPU makes of bfloat16
        yield peer


@pytest.fixture
def same_torch(torch, monkeypatch):
    """Sections use the process that runs already: one starts in a second or two."""
    for section in ("_rules", "_steps", "_runs"):
        monkeypatch.setattr(
            f"funcnet.bench.{section}.torch_if", lambda wanted: contextlib.nullcontext(torch)
        )


def test_torch_takes_part(same_torch):
    relu, l2 = measured(["relu", "l2_penalty"], peers=["torch"]).results
    assert [c.name for c in relu.contenders] == ["funcnet", "autodiff", "torch"]
    assert relu.notes == ()
    assert [c.name for c in l2.contenders] == ["funcnet", "autodiff"]


def test_torch_that_disagrees_is_said(torch, same_torch, monkeypatch):
    right = torch.rule

    def wrong(*args):
        contenders, answers = right(*args)
        output, gradient = answers["torch"]
        return contenders, {"torch": [output, gradient + 0.1]}

    monkeypatch.setattr(torch, "rule", wrong)
    assert (
        "torch disagrees with autodiff" in measured(["relu"], peers=["torch"]).results[0].notes[0]
    )


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, small(name)) for name in catalogue.ROWS] + [("conv2d", case) for case in WITH_OPTIONS],
    ids=lambda value: getattr(value, "label", value),
)
def test_torch_computes_the_same(torch, name, case):
    arguments = _programs.Arguments(case.arguments())
    call = _programs.floats(
        lambda *args: catalogue.ROWS[name].plain(*args, **case.static), arguments
    )
    y, pullback = jax.vjp(lambda diff: call(diff, arguments.rest), arguments.diff)
    rng = np.random.default_rng(0)
    cotangent = [rng.normal(size=leaf.shape).astype(np.float32) for leaf in y]
    found = torch.rule(name, case, cotangent[0], 1e-4, 1)
    if found is None:
        assert name in ("flatten", "l2_penalty")
        return
    contenders, (answers, *narrow) = found[0], found[1].values()
    sides = ["torch", *["torch bf16"] * (name in peers.UNDER_AUTOCAST)]
    assert [contender.name for contender in contenders] == sides == list(found[1])
    in_layouts = name in peers.OF_IMAGES and name != "conv1d" and case.arguments()[-1].ndim == 4
    for contender in contenders:
        assert set(contender.timings) == {"forward", "forward_backward"}
        assert (contender.detail in ("contiguous", "channels_last")) == in_layouts
    if name == "dropout":
        return  # other random numbers
    for output, *gradients in narrow:
        assert set(gradients) == {None}
        assert _programs.disagreement([output], y[:1], _programs.BFLOAT16_TOLERANCE) is None
        assert _programs.disagreement([output], y[:1])  # it is rounded
    gradients = pullback([jnp.asarray(c) for c in cotangent])[0]
    pairs = zip(answers[1:], gradients, strict=True)
    pairs = [(answers[0], y[0]), *(pair for pair in pairs if pair[0] is not None)]
    assert len(pairs) == len(answers) - 2 * (name == "batch_norm_inference")
    assert _programs.disagreement(*zip(*pairs, strict=True)) is None


def test_a_probe_decides_whether_bfloat16_is_measured(torch, tmp_path, monkeypatch):
    assert torch._ask({"kind": "probe"}, {}, 0.0, 1)["slowdown"] > 0
    for slowdown, instructions, words in (
        (9.0, False, "left out: a small convolution takes more than 3 times as long"),
        (2.0, False, "torch bf16: this CPU has no instructions for bfloat16"),
        (0.6, True, None),
    ):
        monkeypatch.setattr(_torch.Torch, "_ask", lambda *_, s=slowdown: {"slowdown": s})
        monkeypatch.setattr("funcnet._machine.cpu_has_bfloat16", lambda i=instructions: i)
        made = _torch.Torch(None, tmp_path)
        assert made.notes == ()
        assert list(made.sides) == ["torch", "torch bf16"][: 1 + (slowdown < 3)]
        assert words in made.notes[0] if words else made.notes == ()


def test_fused_optimizers_give_the_numbers_of_the_others():
    torch = pytest.importorskip("torch", reason='torch is not installed: "funcnet[bench]"')
    from funcnet.bench._torch_worker import OPTIMIZERS

    rng, eps, steps = np.random.default_rng(0), np.finfo(np.float32).eps, 5
    start, *grads = (torch.tensor(rng.normal(size=40).astype("f")) for _ in range(1 + steps))
    for name, make in OPTIMIZERS.items():
        assert make.keywords["fused"], name
        found = []
        for fused in (True, False):
            leaf = torch.nn.Parameter(start.clone())
            optimizer = make.func([leaf], 1e-2, **{**make.keywords, "fused": fused})
            for grad in grads:
                leaf.grad = grad.clone()
                optimizer.step()
            found.append(leaf.detach().numpy())
        # A few roundings a step, of the parameters and of the update.
        np.testing.assert_allclose(*found, rtol=0, atol=4 * steps * eps * start.abs().max())


def test_compiling_takes_too_long_or_has_no_compiler(tmp_path, monkeypatch):
    asked = (TINY["rows"], [], [], 3, 0.0, 1, "contiguous")
    monkeypatch.setattr(_torch, "COMPILE_SECONDS", 0.2)
    monkeypatch.setattr(_torch.shutil, "which", lambda name: name)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **pipes) as slow:
        with pytest.raises(_torch.TorchError, match="it took longer than 0 s"):
            _torch.Torch(slow, tmp_path).compiled(*asked)
        with contextlib.suppress(BrokenPipeError):
            slow.stdin.close()
    monkeypatch.setattr(_torch.shutil, "which", lambda name: None)
    with pytest.raises(_torch.TorchError, match=r"no C\+\+ compiler"):
        _torch.Torch(None, tmp_path).compiled(*asked)


def test_a_compiled_step_is_a_contender(monkeypatch):
    timing = bench.Timing(2.0, 1.0, 3.0, 5)
    eager = bench.Contender("torch", {"step": timing}, detail="channels_last")
    one = bench.Contender("torch compiled", {"step": timing, "eager": timing}, 12.0)
    asked = []

    class Fake:
        def step(self, *args):
            return [eager], {"torch, channels_last": [1.0]}

        def compiled(self, *args):
            asked.append(args[-1])
            if len(asked) > 1:
                raise _torch.TorchError("no such luck")
            return one, [1.0]

    monkeypatch.setattr(_torch, "torch", lambda: contextlib.nullcontext(Fake()))
    call = functools.partial(
        _steps._by_torch, Fake(), TINY["rows"], [], [], _settings.Budget(1.0, 1)
    )
    losses = {"torch, channels_last": [1.0]}
    assert call(torch_compile=False) == ([eager], losses, [])
    assert call(torch_compile=True) == ([eager, one], losses | {"torch compiled": [1.0]}, [])
    failed = ([eager], losses, ["torch.compile failed: no such luck"])
    assert call(torch_compile=True) == failed
    assert asked == ["channels_last"] * 2


@pytest.mark.slow
def test_torch_compiles_a_step(torch):
    spec = TINY["images"]
    batches, params = spec.batches(size=8), _steps._on_host(_steps._ours(spec)[1]).params
    params = _steps._for_torch(spec, params)
    with _torch.torch() as own:
        one, losses = own.compiled(spec, params, batches, 3, 1e-3, 3, "channels_last")
    assert set(one.timings) == {"step", "eager"}
    assert one.compile_seconds > 0
    eager = torch.step("step", spec, params, batches, 3, 1e-3, 3)[1]["torch, channels_last"]
    assert _programs.disagreement([np.array(losses)], [np.array(eager)]) is None


def test_torch_in_trouble_is_said(torch):
    case = catalogue.BenchCase("bad", lambda rng: (np.ones((2, 3), np.float32),), {"rate": 2.0})
    with pytest.raises(_torch.TorchError, match="dropout probability"):
        torch.rule("dropout", case, np.ones((2, 3), np.float32), 1e-4, 1)


def test_torch_that_does_not_start_is_said(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        open(tmp_path / "stderr", "w") as said,
        subprocess.Popen([sys.executable, "-c", "import nosuchtorch"], stderr=said, **pipes) as p,
    ):
        with pytest.raises(_torch.TorchError, match=r"ended with code 1: .*nosuchtorch"):
            _torch.Torch(p, tmp_path).rule("relu", small("relu"), np.ones((20, 20)), 1e-4, 1)
        with contextlib.suppress(BrokenPipeError):
            p.stdin.close()


def test_missing_peers_are_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("torch", "flax") else found(name)
    )
    report = measured(["relu"], peers=("flax", "torch"))
    assert report.missing == ("flax", "torch")
    text = bench.to_markdown(report)
    assert "not installed, so not measured: flax" in text
    assert "not installed, so not measured: torch" in text


def test_a_peer_that_fails_is_no_reason_to_stop(monkeypatch):
    def broken(name, static):
        return peers.Peer(lambda x: x.no_such_thing)

    monkeypatch.setitem(peers.JAX_PEERS, "flax", broken)
    monkeypatch.setattr("funcnet.bench._rules.choose", lambda *_: (("flax",), ()))
    (result,) = measured(["relu"]).results
    assert len(result.contenders) == 2
    assert "flax failed: AttributeError" in result.notes[0]


# --- Steps and runs

TINY = {
    "rows": bench.Step(
        "rows",
        "12-6-10",
        (("affine", 6), ("batch_norm",), ("relu",), ("affine", 10)),
        (12,),
        "adamw",
        1e-3,
    ),
    "images": bench.Step(
        "images",
        "conv-pool-affine",
        (("conv", 4, 3), ("relu",), ("max_pool",), ("affine", 10)),
        (6, 6, 3),
        "momentum",
        0.1,
    ),
}


@pytest.mark.integration
def test_steps_of_all_sides_have_the_same_losses(request):
    peers = [p for p in ("flax", "torch") if importlib.util.find_spec(p)]
    if "torch" in peers:
        request.getfixturevalue("same_torch")
    found = bench.steps(table=TINY, peers=peers, batch_size=8, **BLINK).results
    for result in found:
        assert result.notes == ()
        narrow = ["torch bf16"] * ("torch" in peers)
        assert [c.name for c in result.contenders] == ["funcnet", *peers, *narrow]
        assert result.images == 8
    rows, images = found
    # Three products a layer, without the gradient of the input.
    assert rows.flops["step"] == 2 * 8 * (2 * 12 * 6 + 3 * 6 * 10)
    assert images.flops["step"] == 2 * 8 * (2 * 36 * 27 * 4 + 3 * 36 * 10)


def test_other_losses_are_said(monkeypatch):
    pytest.importorskip("flax")
    right = _steps._flax

    def faster(spec, first):
        return right(spec._replace(learning_rate=0.2), first)

    monkeypatch.setattr(_steps, "_flax", faster)
    report = bench.steps(["images"], table=TINY, peers=["flax"], batch_size=8, **BLINK)
    assert "flax's first losses are" in report.results[0].notes[0]


def test_runs_of_all_sides_have_the_same_losses(same_torch, monkeypatch):
    layers = (("affine", 8), ("batch_norm",), ("relu",)) * 2 + (("affine", 10),)
    monkeypatch.setattr(_runs, "RUN", _cases.RUN._replace(layers=layers))
    options = {"rows": 100, "epochs": 2, "peers": ["torch"], **BLINK}
    (result,) = bench.runs(["course_000"], **options).results
    assert [c.name for c in result.contenders] == ["funcnet", "numpy", "torch", "torch bf16"]
    assert result.notes == ()


@pytest.mark.integration
def test_the_run_on_digits(monkeypatch):
    pytest.importorskip("sklearn", reason='scikit-learn is not installed: "funcnet[sklearn]"')
    monkeypatch.setattr(_runs, "DIGITS_EPOCHS", 3)
    (result,) = bench.runs(["digits"], peers=["sklearn"], **BLINK).results
    assert [c.name for c in result.contenders] == ["funcnet", "sklearn"]
    assert result.ratio("sklearn") > 0
    for contender in result.contenders:
        assert list(contender.timings) == ["epoch"]
        # Of ten classes; either net has more than 80% after two epochs.
        assert 0.5 < contender.accuracy <= 1
    # Three products a layer, without the gradient of the input, for each image.
    assert result.flops["epoch"] == 1297 * 2 * (2 * 64 * 100 + 3 * (100 * 100 + 100 * 10))


# --- compare and timing


def test_compare_two_functions():
    x = jnp.linspace(-1, 1, 200, dtype=jnp.float32)
    found = bench.compare(
        jax.grad(lambda x: layers.relu(x).sum()),
        jax.grad(lambda x: plain.relu(x).sum()),
        x,
        seconds=1e-3,
    )
    assert found.disagreement is None
    assert found.ratio == pytest.approx(found.first.seconds / found.second.seconds)
    assert found.ratio_low <= found.ratio_high
    assert found.first.repetitions == found.second.repetitions >= 5
    assert re.search(r"ms against .* ms: .* rounds", str(found))
    other = bench.compare(jnp.sin, jnp.cos, x, seconds=1e-3)
    assert "their results differ" in str(other)
    with pytest.raises(TypeError, match="compare: f is 3, expected a function"):
        bench.compare(3, jnp.sin, x)


def test_calls_take_turns():
    calls = []
    samples = interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.0, least=4
    )
    assert "".join(calls) == "ab" + "abbaabba"  # one to warm up, then another first each round
    assert {name: len(values) for name, values in samples.items()} == {"a": 4, "b": 4}
    assert bench.Timing.of([1.0, 5.0, 2.0]) == (2.0, 1.5, 3.5, 3)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0], [1.0 + 1e-6], None),
        ([1.0], [1.1], "array 0 differs by 0.091"),
        ([np.nan], [1.0], "array 0 differs by nan"),
        ([1.0], [0.0], "differs by inf"),
        ([np.ones(2)], [np.ones(3)], r"shape \(2,\) against \(3,\)"),
        ([1.0], [1.0, 2.0], "1 arrays against 2"),
    ],
)
def test_disagreement(ours, theirs, expected):
    found = _programs.disagreement(ours, theirs)
    assert (found is None) if expected is None else re.search(expected, found)


@pytest.mark.integration
@pytest.mark.parametrize("name", catalogue.ROWS)
def test_every_case_lies_in_a_peers_order_and_comes_back(name):
    for case in catalogue.ROWS[name].bench:
        args = case.arguments()
        leaves, layout = jax.tree.leaves(args), peers.Layout(name, args)
        for index, (ours, theirs) in enumerate(zip(leaves, layout.there(leaves), strict=True)):
            np.testing.assert_array_equal(layout.back(theirs, index), ours)
