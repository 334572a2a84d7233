"""Wrong command lines, of every command: one clear line, the right exit code, nothing written.

Those that say more of one command's options are with that command: test_options.py,
test_sweep_command.py, test_certificate.py and bench/test_results.py have some sixty more.
"""

import os
import re
import shlex
import subprocess
import sys
import threading

import jax
import pytest

from funcnet import checkpoint, cli, train
from tests.support.bench_files import reports
from tests.support.command_lines import blank_figures  # noqa: F401  (a fixture)
from tests.support.disks import disk_of

RULES = """
import jax

@jax.custom_vjp
def square(x):
    return x**2

square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
divides = none = text = leaves = square

def divides_samples():
    return 1 / 0

def none_samples():
    return None

def text_samples():
    return "abc"

def leaves_samples():
    raise SystemExit(0)

def raises(x):
    raise RuntimeError("inside of it")

number = 3
"""


FILES = {
    "file": "a file",
    "folder/in it": "",
    "rules.py": RULES,
    "syntax.py": "def f(:\n",
    "imports.py": "import no_such_module\n",
    "exits.py": "import sys\nsys.exit(0)\n",
    "bytes.py": b"\xff\xfe\x00",
    "notes.txt": "no Python",
    "damaged/config.json": '{"options": {}}',
    "swept/config.json": '{"values": {}, "seeds": [0]}',
    "several/sweep.json": "{}",
    "torn/config.json": '{"opt',
    "broken/model.json": "{}",
    "cifar/cifar-10-python.tar.gz": b"no archive",
    "svhn/train_32x32.mat": b"no file of MATLAB's",
    "svhn/test_32x32.mat": b"no file of MATLAB's",
    **reports(),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with these files, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUNCNET_DOWNLOAD", "0")
    monkeypatch.setenv("FUNCNET_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("FUNCNET_TRACEBACK", raising=False)
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


# The words after `funcnet`, and what is said of them.
WRONG = [
    # No command
    ("trian", r"no command 'trian'; perhaps train\? expected one of train, predict, evaluate"),
    ("''", "there is no command '', expected one of"),
    ("--epochs 3", "there is no command '--epochs', expected one of"),
    ("--version now", "there is no command '--version', expected one of"),
    # funcnet train
    ("train --résumé", "unrecognized options: --résumé"),
    ("train --seed 1.5", "--seed: expected INT, not '1.5'"),
    ("train --learning-rate fast", "--learning-rate: expected FLOAT, not 'fast'"),
    ("train --learning-rate inf", "--learning-rate is inf"),
    ("train --hidden 1.5", r"--hidden: expected .*INT.*, not '1\.5'"),
    ("train --hidden -5", r"hidden\[0\] is -5, expected an int of at least 1"),
    (
        "train --hidden 10000000 10000000 10000000",
        "200,000,830,000,010 parameters, and training it takes 2,235,183 GiB at least, but there",
    ),
    ("train --hidden 4000000000 4000000000 4000000000", "expected a smaller net"),
    ("train --weight-scale -1", r"scale is -1\.0, expected"),
    ("train --compute-dtype float8", "'float8'.*'float32', 'bfloat16', 'float16'"),
    ("train --net resnet --channels 0", "channels is 0, expected an int of at least 1"),
    ("train --channels 4", "--channels is no option of --net fully_connected, which takes"),
    ("train --optimizer adam --eps -1", r"eps is -1\.0, expected"),
    ("train --data cifar10 --data-dir file", "cifar10: found no complete copy in file/cifar10"),
    ("train --data cifar10 --data-dir cifar", r"cifar-10-python\.tar\.gz: .*--allow-unverified"),
    (
        "train --data cifar10 --data-dir cifar --allow-unverified",
        r"cifar-10-python\.tar\.gz: its gzip stream is broken",
    ),
    (
        "train --data svhn --data-dir svhn --allow-unverified",
        r"train_32x32\.mat: it does not begin as a little-endian MATLAB",
    ),
    ("train --checkpoint-every 10", "--checkpoint-every is 10, expected a number with its unit"),
    ("train --resume --out folder", "folder holds no run: there is no config.json"),
    ("train --resume --out nowhere", "nowhere holds no run"),
    ("train --resume", "there is no run in runs"),
    ("train --resume --out damaged", r"damaged/config\.json is damaged"),
    ("train --resume --out torn", r"torn/config\.json is damaged"),
    ("train --out folder", "folder is not empty, and nothing is overwritten"),
    # funcnet predict, evaluate, export
    ("predict", "there are no files, expected one of examples at least"),
    ("predict file", "there is no run in runs; name the folder of one"),
    ("predict damaged file", "damaged holds no trained net: there is no model.json. A run writes"),
    ("predict broken file", r"broken/model\.json is damaged, or of another version"),
    ("predict file --csv folder", "--csv: folder is a folder, expected a file to write"),
    ("evaluate", "there is no run in runs; name the folder of one"),
    ("evaluate nowhere", "there is no folder nowhere, expected that of a run"),
    ("evaluate folder", "folder holds no trained net: there is no model.json"),
    ("evaluate broken --split all", "'all'.*'train', 'val', 'test'"),
    ("evaluate broken --json nowhere/n.json", "--json: nowhere is no folder to write nowhere/n"),
    ("export --to pickle", "'pickle'.*'onnx', 'stablehlo', 'safetensors'"),
    ("export broken", r"broken/model\.json is damaged"),
    ("export", "there is no run in runs; name the folder of one"),
    # funcnet pack
    ("pack digits", "missing from funcnet pack: OUT"),
    ("pack digits file", "file is there already, expected a folder to be made"),
    ("pack nowhere.npz new", r"error: there is no data set and no path nowhere\.npz"),
    # funcnet sweep
    ("sweep --learning-rate", "--learning-rate has no value"),
    ("sweep --learning-rate 0.1 fast", "--learning-rate: expected .*FLOAT.*, not '0.1', 'fast'"),
    ("sweep --learning-rate 0.1 nan", "--learning-rate is nan"),
    ("sweep --b1 0.9 1", r"b1 is 1\.0, expected a number in"),
    ("sweep --random 3", "--random is 3, expected at least 1 row, and a range"),
    ("sweep --random 3 --reg-range 1", "--reg-range: expected .*FLOAT FLOAT.*, not '1'"),
    ("sweep --random 3 --reg-range 0 1", r"--reg-range is 0\.0 1\.0, expected two numbers above"),
    ("sweep --random 3 --reg-range 1 inf", "--reg-range is 1.0 inf, expected two numbers"),
    ("sweep --random 3 --reg-range 1 2 --random-seed -1", "--random-seed is -1"),
    ("sweep --random 3 --reg-range 1 2 --random-seed 4294967296", "--random-seed is 4294967296"),
    ("sweep --seeds 2.5", "--seeds: expected INT, not '2.5'"),
    ("sweep --seed 4294967295 --seeds 2", "seed would be above 2.32 - 1"),
    ("sweep --how gpu", "'gpu'.*'measure', 'loop', 'map', 'vmap'"),
    ("sweep --hidden 10000000 10000000", "expected a smaller net"),
    ("sweep --out file", "file is a file, expected a folder"),
    ("sweep --out file/below", "--out: cannot write into file/below: Not a directory"),
    ("sweep --out folder", "folder is not empty and holds no sweep"),
    # funcnet check
    ("check nothing", "nothing is neither a file, .* nor a rule of the catalogue: relu, "),
    ("check no.module", "there is no file, folder or module no.module; for a function in no write"),
    ("check no_such_file.py", "no_such_file.py is no file; expected FILE.py"),
    ("check rules.py:", "rules.py: is no FILE.py:FUNCTION"),
    ("check :square", ":square is no FILE.py:FUNCTION"),
    ("check folder:f", "folder is no file; expected FILE.py:FUNCTION"),
    ("check notes.txt:f", "notes.txt is no Python file"),
    ("check rules.py:number", "rules.py has no function number; functions.*: square, divides"),
    ("check rules.py:square --args 3 --plain cube", "rules.py has no function cube"),
    ("check rules.py:square --args 5:int0", "--args 5:int0: expected ints below 1 to 2.31"),
    ("check rules.py:square --args 99999999x99999", "--args 99999999x99999: expected at most"),
    ("check rules.py:square --args f32[99999999,99999]", r"--args f32\[.*: expected at most"),
    ("check rules.py:square --args q8[2]", r"--args q8\[2\]: q8 is no dtype; expected f16, bf16"),
    ("check rules.py:square --args __import__('os')", "--args __import__.*expected a shape such"),
    ("check rules.py:square --args @os:nothing", "--args @os:nothing: there is no os:nothing"),
    ("check rules.py:square --args 3 --seed -1", "--seed is -1, expected a number from 0"),
    ("check rules.py:square --args 3 --seed 4294967296", r"--seed is 4294967296, .* 2\^32 - 1"),
    ("check rules.py:square --args 3 --all-samples", "--all-samples is an option of a rule"),
    ("check rules.py:square --examples 0", "--examples is 0, expected a number from 1"),
    ("check relu --examples 2", "--examples is an option of targets of your own"),
    ("check relu --fail-on sloppy", "--fail-on is sloppy, expected of imprecise, by-design"),
    ("check relu --args 3", "--args is an option of FILE.py:FUNCTION and MODULE:FUNCTION alone"),
    ("check rules.py --args 3", "--args is an option of FILE.py:FUNCTION and MODULE:FUNCTION al"),
    ("check relu --json nowhere/r.json", "--json: nowhere is no folder to write nowhere/r.json"),
    ("check relu --junit folder", "--junit: folder is a folder, expected a file"),
    ("check relu --sarif nowhere/r", "--sarif: nowhere is no folder to write nowhere/r"),
    ("check relu --markdown folder", "--markdown: folder is a folder, expected a file"),
    ("check relu --json file/r.json", "--json: file is no folder to write file/r.json to"),
    ("check relu --json - --junit /dev/stdout", "--json and --junit are stdout, expected one"),
    # funcnet bench
    ("bench --load nowhere.json", "--load: cannot read nowhere.json: No such file"),
    ("bench --load folder", "--load: cannot read folder: Is a directory"),
    ("bench --load cut.json", "cut.json is no whole report of funcnet bench: .*char"),
    ("bench --load list.json", "list.json is no whole report.*format is 'list', expected 1"),
    ("bench --load version.json", "version.json is no whole report.*format is 99, expected 1"),
    ("bench --load part.json", "part.json is no whole report.*'results'"),
    ("bench --load bytes.json", "bytes.json is no whole report.*can't decode byte 0xff"),
    ("bench --load deep.json", "deep.json is no whole report.*recursion"),
    ("bench --load alone.json", "alone.json is no whole report"),
    ("bench --load passes.json", "passes.json is no whole report.*forward_backward"),
    ("bench --load words.json", "words.json is no whole report"),
    ("bench --load section.json", "section.json is no whole report.*no section 'zoo'"),
    ("bench --load ceilings.json", "ceilings.json is no whole report"),
    ("bench --load good.json --against cut.json", "--against: cut.json is no whole report"),
    ("bench --load good.json --figure f.xyz", "--figure is f.xyz, expected a file in .png"),
    ("bench --load good.json --json folder", "--json: folder is a folder"),
    ("bench --load good.json --markdown no/r.md", "--markdown: no is no folder to write no/r.md"),
    ("bench --only relu --figure figure", "--figure is figure, expected a file in .png"),
    ("bench --seconds inf", "--seconds is inf, expected a number above 0"),
    ("bench --peers none flax", "there is no peer 'none'"),
    # funcnet report and compare
    ("report", "there is no run in runs; name its folder"),
    ("report nowhere", "nowhere holds no run: there is no config.json and no model.json"),
    ("report damaged", r"damaged/config.json is damaged, or of another version of funcnet: KeyErr"),
    ("report swept", "swept is the folder of a sweep, expected that of a run of funcnet train"),
    ("report several", "several is the folder of a sweep"),
    ("predict swept file", "swept is the folder of a sweep"),
    ("train --resume --out swept", "--resume: swept is the folder of a sweep"),
    ("compare swept several", "swept is the folder of a sweep"),
    ("report torn", r"torn/config.json is damaged, or of another version of funcnet: JSONDecode"),
    ("report file", "file holds no run"),
    ("report damaged --out page.pdf", "--out is page.pdf, expected a file in .html, .htm"),
    ("report damaged --out no/page.html", "--out: no is no folder to write no/page.html to"),
    ("compare", "RUN names 0 run, expected at least two"),
    ("compare damaged ./damaged", "RUN names 1 run, expected at least two"),
    ("compare damaged nowhere", "damaged/config.json is damaged, or of another"),
    ("compare nowhere damaged --out runs", "--out is runs, expected a file in .png, .svg, .pdf"),
    # funcnet info
    ("info digits", "unrecognized options: digits"),
    ("info --data-dir", "'--data-dir'. Expected one value"),
    ("info --data-dir file", "--data-dir: file is a file, expected a folder"),
]  # fmt: skip


def said_of(words, capsys):
    """The exit code and the one line on stderr."""
    code = cli.main(words)
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    command = f" {words[0]}" if words[:1] and words[0] in cli.COMMANDS else ""
    assert line.startswith(f"funcnet{command}: error: ")
    assert not re.search(r"Traceback|\.\.$|\.\. |  ", line)
    return code, line


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_line_is_refused_in_one_line(here, capsys, words, said):
    before = sorted(here.rglob("*"))
    code, line = said_of(shlex.split(words), capsys)
    assert code == 2
    assert re.search(said, line), line
    assert sorted(path for path in here.rglob("*") if "__pycache__" not in str(path)) == before


# Rules that are there, and cannot be judged: said of each, with the others, and the code is 3.
UNJUDGED = [
    ("syntax.py", "syntax does not import: SyntaxError"),
    ("imports.py:f", "imports does not import: ModuleNotFoundError: .*no_such_module"),
    ("exits.py:f", "exits does not import: SystemExit: 0"),
    ("bytes.py:f", "bytes does not import: SyntaxError"),
    ("rules.py:square", r'no sample inputs: x .*: funcnet_samples = {"square": "f32\[3,4\]"}'),
    ("rules.py:divides", "sample arguments of divides: ZeroDivisionError: division by zero"),
    ("rules.py:none", r"none_samples\(\) returned a NoneType, expected a tuple"),
    ("rules.py:text", r"text_samples\(\) returned a str, expected a tuple"),
    ("rules.py:leaves", "sample arguments of leaves: SystemExit: 0"),
    ("rules.py:raises --args 3", "raises: RuntimeError: inside of it"),
    ("rules.py:square --args 3 4", "too many positional arguments"),
]


@pytest.mark.parametrize(("words", "said"), UNJUDGED, ids=[words for words, _ in UNJUDGED])
def test_what_cannot_be_judged_is_said_and_the_code_is_3(here, capsys, words, said):
    assert cli.main(["check", *shlex.split(words)]) == 3
    printed = capsys.readouterr()
    assert re.search(said, printed.out), printed.out
    assert "1 cannot be judged" in printed.out
    assert printed.err == ""
    assert cli.main(["check", *shlex.split(words), "--traceback"]) == 3
    assert ("Traceback" in capsys.readouterr().err) == bool(re.search("Error|Exit|too m", said))


def test_there_are_at_least_forty_of_them_and_every_command_has_some():
    assert len({words for words, _ in WRONG}) == len(WRONG) >= 40
    assert {words.split()[0] for words, _ in WRONG} >= set(cli.COMMANDS)


@pytest.mark.integration
def test_the_files_that_are_refused_are_near_to_one_that_is_not(here, capsys):
    assert cli.main(["bench", "--load", "good.json"]) == 0
    assert cli.main(["check", "rules.py:square", "--args", "3"]) == 0
    capsys.readouterr()


# --- Places that cannot be written to


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize(
    "words",
    ["train --out shut/run", "sweep --out shut/run", "check relu --json shut/r.json"],
)
def test_a_folder_that_is_not_writable(here, capsys, words):
    (here / "shut").mkdir(mode=0o500)
    code, line = said_of(shlex.split(words), capsys)
    assert code == 2
    assert "cannot write into shut" in line


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="there is no /proc, which takes no file"
)
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("train --out /proc/run", 2),
        ("sweep --out /proc/run", 2),
        ("bench --load good.json --json /proc/r.json", 1),
        ("bench --load good.json --markdown /proc/r.md", 1),
    ],
)
def test_a_file_system_that_takes_no_file(here, capsys, words, code):
    found, line = said_of(shlex.split(words), capsys)
    assert found == code
    assert re.search("cannot write (into )?/proc/r", line)


@pytest.fixture
def no_cache_of_programs():
    """JAX keeps compiled programs on the disk, and warns where that is full."""
    name = "jax_persistent_cache_min_compile_time_secs"
    seconds = jax.config.values[name]
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, seconds)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("train --hidden 30 --epochs 1 --out run --quiet", {"config.json", "history.jsonl"}),
        pytest.param(
            *("sweep --hidden 30 --epochs 1 --out run --quiet", {"config.json"}),
            marks=pytest.mark.slow,
        ),
        ("bench --load good.json --json run/new.json", set()),
        ("check rules.py:square --args 3 --json run/new.json", set()),
    ],
)
def test_a_full_disk(here, capsys, no_cache_of_programs, words, kept):
    """What was whole stays, nothing is half-written, and the code is 1: it began."""
    (here / "run").mkdir()
    with disk_of(4096 if words.startswith(("train", "sweep")) else 100):
        code = cli.main(shlex.split(words))
    err = capsys.readouterr().err
    (line,) = err.splitlines()
    assert code == 1
    assert re.match(r"funcnet \w+: error: .*(File too large|run)", line), line
    left = {path.name for path in (here / "run").rglob("*") if path.is_file()}
    assert left <= kept | {"lock"}
    assert kept <= left


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            jax.errors.JaxRuntimeError(
                "INTERNAL: Error dispatching computation: Out of memory allocating 400 bytes."
            ),
            "out of memory allocating 400 bytes. A smaller net or smaller batches may help.",
        ),
        (MemoryError("Unable to allocate 3 GiB"), "out of memory: Unable to allocate 3 GiB. A sm"),
        (RuntimeError("a mistake of ours"), None),
    ],
    ids=["XLA's", "Python's", "another"],
)
def test_a_full_memory(here, capsys, monkeypatch, error, said):
    """What the check of a net's size lets pass, because it depends on much else."""

    def full(*args, **options):
        raise error

    monkeypatch.setattr(train, "fit", full)
    words = ["train", "--out", "run", "--quiet"]
    if said is None:
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            cli.main(words)
        return
    code, line = said_of(words, capsys)
    assert code == 1
    assert said in line
    assert not (here / "run").exists()


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_folder_that_another_process_has(here, capsys, command):
    with checkpoint.locked("folder"):
        code, line = said_of([command, "--out", "folder", "--quiet"], capsys)
    assert code == 2
    assert f"folder is in use by process {os.getpid()}" in line


# --- A net that does not fit the data, in a process of its own


@pytest.mark.integration
def test_as_a_program_too(here):
    """Of a whole process: the exit code, one line, and nothing else."""
    words = ["train", "--data", "synthetic", "--net", "three_layer_convnet"]
    words += ["--channels", "4", "4", "4", "4"]
    ended = subprocess.run(
        [sys.executable, "-m", "funcnet.cli", *words], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(
        r"funcnet train: error: .*window of 2 does not fit into height 1.*\n", ended.stderr
    )
    assert not (here / "runs").exists()


@pytest.mark.parametrize("code", [0, 1, 2, 130, 141, 143])
def test_after_a_signal_the_process_is_not_taken_down(code, monkeypatch, capsys):
    """XLA may still compile on a thread, and would find its client gone."""
    at_once = []
    monkeypatch.setattr(cli, "main", lambda: print("said") or code)
    monkeypatch.setattr(os, "_exit", at_once.append)
    monkeypatch.setattr(threading, "enumerate", list)  # others' daemons, as zarr's, are not asked
    with pytest.raises(SystemExit) as end:
        cli.program()
    assert end.value.code == code
    assert at_once == [code] * (code > 128)
    assert capsys.readouterr().out == "said\n"
