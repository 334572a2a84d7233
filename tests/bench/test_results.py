"""What benchmarks keep and show, and the command."""

import dataclasses
import json
import math
import re

import jax
import pytest

from funcnet import bench, catalogue, cli
from funcnet.bench import _programs, tables
from funcnet.cli import _bench_command
from tests.support import bench_cases
from tests.support.bench_cases import BLINK, LIMITS, measured, small

_as_users_have_it, _one_core = bench_cases.as_users_have_it, bench_cases.one_core


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


@pytest.mark.parametrize(("work", "bound"), [((2e11, 1e9), 2.0), ((1e10, 3e10), 3.0)])
def test_the_bound_is_the_slower_of_products_and_traffic(report, work, bound):
    flops, least = ({"forward": 0, "forward_backward": amount} for amount in work)
    result = report.results[0]._replace(flops=flops, least_bytes=least)
    assert result.bound(LIMITS) == bound
    (first, *_) = tables.sheets(report._replace(results=(result,)))
    assert dict(zip(first.columns, first.rows[0], strict=True))["bound ms"] == f"{1e3 * bound:.0f}"


def with_torch(result, *ms, work=int(1e8)):
    """The result with torch's sides beside funcnet, whose time is 1 ms."""
    sides = [result.contenders[0]]
    for who, value in zip(("torch", "torch bf16"), ms, strict=False):
        timings = {name: bench.Timing(*3 * (1e-3 * value,), 5) for name in sides[0].timings}
        sides.append(bench.Contender(who, timings))
    work = dict.fromkeys(sides[0].timings, work)
    return result._replace(contenders=tuple(sides), flops=work, least_bytes=dict.fromkeys(work, 0))


def test_means_and_misses(report):
    relu = report.results[0]
    results = [relu._replace(name=name) for name in ("a", "b", "c", "d")]
    results = [
        with_torch(r, *ms) for r, ms in zip(results, [(2, 1), (0.25,), (0.5,), ()], strict=True)
    ]
    times, misses, _ = tables.sheets(report._replace(results=tuple(results)))
    # The ratios are 1/2, 4 and 2; the bound is 1e8 / 1e11 s, a millisecond.
    assert times.foot == (
        "Geometric means (rows above 1.00): /torch 1.59 (2 of 3), /torch bf16 1.00 (0 of 1).",
    )
    assert misses.columns[2:] == (
        *("/torch", "ms", "torch ms", "bound ms", "funcnet at", "torch at"),
    )
    assert [row[0] for row in misses.rows] == ["b", "c"]
    assert misses.rows[0][2:] == ("4.00", "1", "0.25", "1", "100%", "400%")
    assert "rows above 1.00" in bench.to_markdown(report._replace(results=tuple(results)))


def test_torch_compile_has_a_line_and_no_column(report):
    step = report.results[2]
    timing = step.contenders[0].timings["step"]
    slow = timing._replace(seconds=1.5 * timing.seconds)
    compiled = bench.Contender("torch compiled", {"step": slow, "eager": timing}, 33.3)
    step = step._replace(contenders=(*step.contenders, compiled))
    times, _ = tables.sheets(report._replace(results=(step,)))
    assert not [column for column in times.columns if "compiled" in column]
    assert times.foot == ("torch.compile in units of eager torch: fc 1.50 (compiled in 33 s).",)
    assert bench.slower(report._replace(results=(step,)), report) == ()


def test_runs_with_an_accuracy_have_a_table(report, tmp_path):
    epoch = bench.Timing(0.004, 0.003, 0.005, 9)
    sides = (
        bench.Contender("funcnet", {"epoch": epoch}, accuracy=0.981),
        bench.Contender("sklearn", {"epoch": epoch._replace(seconds=0.016)}, accuracy=0.975),
    )
    run = bench.Result("runs", "digits", "words", sides, {"epoch": 1}, {"epoch": 1}, 1297)
    one = report._replace(results=(run,))
    (sheet,) = tables.sheets(one)
    assert sheet.columns[-2:] == ("accuracy", "sklearn")
    assert sheet.rows[0][2:] == ("4", "±25% of 9", "16", "0.25", "98.1%", "97.5%")
    one.save(tmp_path / "r.json")
    assert bench.Report.load(tmp_path / "r.json") == one
    assert len(bench.figure(one).axes) == 1


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


@pytest.mark.integration
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
