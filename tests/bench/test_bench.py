"""The scorecard: complete tables, equal numbers on all sides, files, and how it says no.

No time is ever asserted; the shapes here are so small that their times mean nothing.
"""

import contextlib
import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import bench, catalogue, cli, layers, plain
from funcnet.bench import _cases, _programs, _steps, _torch, peers, tables
from funcnet.bench._timing import interleaved
from funcnet.cli import _bench_command

LIMITS = bench.Ceilings(1e11, 1e10)
BLINK = {"seconds": 1e-4, "limits": LIMITS}


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """Peers promote dtypes and broadcast as they like."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _one_core():
    """Torch's threads wait in circles, which takes long where other tests run beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("funcnet._machine.cores", lambda: 1)
        yield


def small(name):
    """The first case of a rule with each large axis cut, so that it takes no time."""
    case = catalogue.ROWS[name].bench[0]

    def cut(leaf):
        if not isinstance(leaf, np.ndarray):
            return leaf
        return leaf[tuple(slice(20 if n > 32 else 8 if n == 32 else None) for n in leaf.shape)]

    return case._replace(draw=lambda rng: jax.tree.map(cut, case.draw(rng)))


def measured(names, **options):
    cases = {name: [small(name)] for name in names}
    return bench.rules(names, cases=cases, **{**BLINK, "peers": (), **options})


# --- The tables are complete


def test_every_row_of_the_catalogue_says_what_it_is_measured_with():
    for name, row in catalogue.ROWS.items():
        assert row.bench, name
        assert len({case.label for case in row.bench}) == len(row.bench), name


@pytest.mark.parametrize("name", catalogue.ROWS)
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
    wrong = type(row)(relu, row.plain, row.kind, row.samples)
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

    monkeypatch.setitem(catalogue.ROWS, "relu", type(row)(relu, row.plain, row.kind, row.samples))
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
    report = measured([n for n in having if n in names], peers=(peer,))
    assert len(report.results) == len(names)
    for result in report.results:
        assert result.notes == ()
        assert result.contender(peer).timings["forward_backward"].seconds > 0


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("torch", reason='torch is not installed: "funcnet[bench]"')
    with _torch.torch() as peer:
        yield peer


@pytest.fixture
def same_torch(torch, monkeypatch):
    """Sections use the process that runs already: one starts in a second or two."""
    for section in ("_rules", "_steps"):
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
        contender, answers = right(*args)
        return contender, [answers[0], answers[1] + 0.1]

    monkeypatch.setattr(torch, "rule", wrong)
    assert (
        "torch disagrees with autodiff" in measured(["relu"], peers=["torch"]).results[0].notes[0]
    )


@pytest.mark.parametrize("name", catalogue.ROWS)
def test_torch_computes_the_same(torch, name):
    case = small(name)
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
    contender, answers = found
    assert set(contender.timings) == {"forward", "forward_backward"}
    in_layouts = name in peers.OF_IMAGES and case.arguments()[-1].ndim == 4
    assert (contender.detail in ("contiguous", "channels_last")) == in_layouts
    if name == "dropout":
        return  # other random numbers
    gradients = pullback([jnp.asarray(c) for c in cotangent])[0]
    pairs = zip(answers[1:], gradients, strict=True)
    pairs = [(answers[0], y[0]), *(pair for pair in pairs if pair[0] is not None)]
    assert len(pairs) == len(answers) - 2 * (name == "batch_norm_inference")
    assert _programs.disagreement(*zip(*pairs, strict=True)) is None


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
    monkeypatch.setattr("funcnet.bench._rules.choose", lambda peers: (("flax",), ()))
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
        "adam",
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


def test_steps_of_all_sides_have_the_same_losses():
    peers = [p for p in ("flax", "torch") if importlib.util.find_spec(p)]
    rows, images = bench.steps(table=TINY, peers=peers, batch_size=8, **BLINK).results
    for result in (rows, images):
        assert result.notes == ()
        assert [c.name for c in result.contenders] == ["funcnet", *peers]
        assert result.images == 8
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
    monkeypatch.setattr(_steps, "RUN", _cases.RUN._replace(layers=layers))
    (result,) = bench.runs(rows=100, epochs=2, peers=["torch"], **BLINK).results
    assert [c.name for c in result.contenders] == ["funcnet", "numpy", "torch"]
    assert result.notes == ()


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


# --- What is kept and shown


@pytest.fixture(scope="module")
def report():
    def timing(ms):
        return bench.Timing(1e-3 * ms, 0.9e-3 * ms, 1.1e-3 * ms, 10)

    def rule(name, ours, autodiff, **more):
        def side(who, ms, kept):
            passes = {"forward": timing(ms / 3), "forward_backward": timing(ms)}
            return bench.Contender(who, passes, 0.5, kept, 100)

        contenders = (side("funcnet", ours, 0), side("autodiff", autodiff, 4000))
        both = {"forward": 10, "forward_backward": 30}
        return bench.Result("rules", name, "a shape", contenders, both, both, **more)

    step = bench.Result(
        "steps",
        "fc",
        "3-2",
        (
            bench.Contender("funcnet", {"step": timing(2)}, 1.0, None, 50),
            bench.Contender("flax", {"step": timing(4)}, 2.0, None, 60),
            bench.Contender("torch", {"step": timing(3)}, detail="channels_last"),
        ),
        {"step": 100},
        {"step": 100},
        100,
    )
    return bench.Report(
        (rule("relu", 1.0, 2.0), rule("tanh", 3.0, 2.0, notes=("a note",)), step),
        LIMITS,
        bench.Machine("a CPU", "AVX2", 2, "cpu", "cpu"),
        {"funcnet": "0"},
        "2020-01-01",
        ("equinox",),
    )


def test_json_goes_round(report, tmp_path):
    report.save(tmp_path / "r.json")
    assert bench.Report.load(tmp_path / "r.json") == report
    assert bench.Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_a_measured_report_goes_round(tmp_path):
    found = measured(["softmax_cross_entropy"])
    found.save(tmp_path / "r.json")
    assert bench.Report.load(tmp_path / "r.json") == found
    assert found.machine.backend == jax.default_backend()
    assert {"funcnet", "jax", "numpy"} <= set(found.versions)
    assert re.match(r"\d{4}-\d\d-\d\dT", found.date)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", "format is 'list', expected 1"),
        ('{"format": 0}', "format is 0, expected 1"),
        ('{"format": 1}', "no whole report"),
        ('{"format": 1, "results": [{"contenders": [], "notes": []}]}', "no whole report"),
        ("{", "r.json"),
    ],
)
def test_files_that_are_no_reports(text, match, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        bench.Report.load(tmp_path / "r.json")


def test_markdown(report):
    text = bench.to_markdown(report)
    assert "| relu | a shape | 0.333 | 1 | ±10% of 10 | 0.50 | 0.50 |" in text
    assert "| relu | a shape | 0 B | 4 kB | 100 B | 100 B | 0.50 | 0.50 |" in text
    assert "| fc | 3-2 | 2 | ±10% of 10 | 50,000 | 4 | 3 | 0.50 | 0.67 |" in text
    assert "| fc | 3-2 | 50 B | 60 B | 1.00 | 2.00 |" in text
    assert "- tanh (a shape): a note" in text
    assert "not measured: equinox" in text
    assert text.startswith("a CPU, AVX2, 2 cores.")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_shares_of_the_ceilings(report):
    first = tables.sheets(report)[0].rows[0]
    # 30 FLOPs and bytes in a millisecond.
    assert first[-2:] == (f"{30 / 1e-3 / 1e11:.0%}", f"{30 / 1e-3 / 1e10:.0%}")


def test_what_became_slower(report):
    def with_relu(factor):
        relu = report.results[0]
        ours = relu.contenders[0]
        both = bench.Timing(*(factor * s for s in ours.timings["forward_backward"][:3]), 10)
        ours = ours._replace(timings={**ours.timings, "forward_backward": both})
        changed = relu._replace(contenders=(ours, relu.contenders[1]))
        return report._replace(results=(changed, *report.results[1:]))

    assert bench.slower(report, report) == ()
    assert bench.slower(with_relu(1.15), report) == ()  # the quartiles overlap
    assert bench.slower(with_relu(0.5), report) == ()
    (found,) = bench.slower(with_relu(1.5), report)
    assert (found.name, found.timing) == ("relu", "forward_backward")
    assert "relu (a shape), funcnet, forward and backward: 1 -> 1.5 ms, 1.50 times" in str(found)
    assert len(bench.slower(with_relu(1.5), report, by=0.6)) == 0


def test_figures(report, tmp_path):
    drawn = bench.figure(report, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    times, kept, wholes = drawn.axes
    assert [bar.get_width() for bar in times.patches] == pytest.approx([0.5, 1.5])
    assert [bar.get_width() for bar in kept.patches] == [0, 4000, 0, 4000]
    assert [bar.get_width() for bar in wholes.patches] == pytest.approx([5e4, 2.5e4, 1e5 / 3])
    assert len(bench.figure(report._replace(results=report.results[:1])).axes) == 2
    assert len(bench.figure(report._replace(results=report.results[2:])).axes) == 1


def test_reports_merge(report):
    one, two = (report._replace(results=r) for r in (report.results[:1], report.results[1:]))
    assert one.merged(two) == report


def test_compile_times_are_left_out_where_a_cache_answers(monkeypatch):
    assert jax.config.jax_compilation_cache_dir  # the test suite's
    found = measured(["relu"])
    assert found.results[0].contenders[0].compile_seconds is None
    assert "compile times are left out" in found.notes[0]
    monkeypatch.setattr(_programs, "cached_programs", lambda: False)
    found = measured(["relu"])
    assert found.results[0].contenders[0].compile_seconds > 0
    assert found.notes == ()


def test_the_memory_of_a_program():
    (result,) = measured(["max_pool"]).results
    assert all(isinstance(c.temporary_bytes, int) for c in result.contenders)


def test_ceilings():
    found = bench.ceilings(seconds=1e-3)
    assert all(math.isfinite(value) and value > 0 for value in found)
    with pytest.raises(ValueError, match=r"seconds is 0, expected a number above 0"):
        bench.ceilings(0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: bench.rules(["rely"], **BLINK),
            "rules: there is no 'rely'; expected some of relu",
        ),
        (lambda: bench.steps(["no"], **BLINK), "steps: there is no 'no'; expected some of fc500x3"),
        (lambda: bench.runs(["no"], **BLINK), "runs: there is no 'no'"),
        (lambda: bench.runs(epochs=1, **BLINK), "epochs is 1, expected 2 or more"),
        (lambda: bench.rules(["relu"], peers=["jax"], **BLINK), "there is no peer 'jax'; expected"),
        (lambda: bench.rules(["relu"], variants=(), **BLINK), "variants is empty"),
        (lambda: bench.steps(variants=(), **BLINK), "variants is empty"),
        (lambda: bench.rules(["relu"], seconds=-1.0, limits=LIMITS), "seconds is -1.0"),
    ],
)
def test_wrong_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# --- The command


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The command on small shapes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("relu", "affine"):
        row = dataclasses.replace(catalogue.ROWS[name], bench=(small(name),))
        monkeypatch.setitem(catalogue.ROWS, name, row)
    monkeypatch.setattr(bench, "ceilings", lambda seconds: LIMITS)
    return ["bench", "--quick", "--seconds", "1e-4", "--peers", "none"]


def test_the_command_measures_and_writes(quick, tmp_path, capsys):
    words = [*quick, "--only", "relu", "affine", "--json", "r.json", "--markdown", "r.md"]
    assert cli.main([*words, "--figure", "r.png"]) == 0
    text = capsys.readouterr().out
    assert "2 comparisons in" in text
    assert "Ceilings: 100 GFLOP/s" in text
    report = bench.Report.load("r.json")
    assert [r.name for r in report.results] == ["relu", "affine"]
    assert (tmp_path / "r.md").read_text() == bench.to_markdown(report)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")

    assert cli.main(["bench", "--load", "r.json", "--against", "r.json"]) == 0
    text = capsys.readouterr().out
    assert "2 of 2 are in both" in text
    assert "nothing became slower by more than 10%" in text


def test_the_command_finds_what_became_slower(report, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def times(timing):
        return bench.Timing(*(value / 2 for value in timing[:3]), timing[3])

    old = report._replace(
        machine=report.machine._replace(cpu="another"),
        results=tuple(
            r._replace(
                contenders=tuple(
                    c._replace(timings={k: times(t) for k, t in c.timings.items()})
                    for c in r.contenders
                )
            )
            for r in report.results
        ),
    )
    report.save("new.json")
    old.save("old.json")
    assert cli.main(["bench", "--load", "new.json", "--against", "old.json"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "another machine: another" in text
    assert "slower: relu (a shape), funcnet, forward and backward: 0.5 -> 1 ms, 2.00 times" in text
    assert "flax" not in text.partition("slower: ")[2]


@pytest.mark.parametrize("width", [80, 200])
def test_tables_fit_the_terminal(report, width):
    for sheet in tables.sheets(report):
        fitting, left_out = _bench_command._fitting(sheet, width)
        assert [c for c in sheet.columns if c not in left_out] == list(fitting.columns)
        if width == 200:
            assert not left_out
        for row in fitting.rows:
            assert len(row) == len(fitting.columns)
            assert len(" ".join(row)) < width


def test_the_command_takes_variants(quick, capsys):
    words = ["--only", "relu", "--variants", "pure:FUNCNET_NATIVE=0", "native:FUNCNET_NATIVE=1"]
    assert cli.main([*quick, *words]) == 0
    assert "/native" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--only rely", "--only rely: there is no such name in rules and steps; expected some of"),
        ("--steps --only relu", "--only relu: there is no such name in steps; expected some of"),
        ("--peers jaxx", "there is no peer 'jaxx'; expected some of flax, equinox, torch"),
        ("--seconds 0", "--seconds is 0.0, expected a number above 0"),
        ("--seconds soon", "expected FLOAT, not 'soon'"),
        ("--variants a:b", "--variants a:b: b is no VARIABLE=VALUE"),
        ("--variants torch", "'torch' is no name"),
        ("--variants a a", "'a' is no name, or another side's"),
        ("--load no.json", "no.json"),
        ("--against no.json", "no.json"),
        ("--json no/r.json", "no is no folder to write no/r.json to"),
    ],
)
def test_wrong_options(words, message, quick, capsys):
    assert cli.main([*quick, *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("funcnet bench: error: ")
    assert message.lower() in line.lower()


def test_help_explains_every_option(capsys):
    assert cli.main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("only", "quick", "peers", "variants", "json", "against", "load", "figure"):
        entry = re.search(rf"\n[│ ]+--{flag}[ \n].*?\(default:[^)]+\)", text, re.DOTALL)
        assert entry, flag
        assert len(entry[0].split()) > 5
    assert "Examples:" in text
