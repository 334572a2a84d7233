"""Rules as tests: pytest's plugin, which two lines of settings turn on.

    [tool.pytest.ini_options]
    funcnet_rules = ["mypackage.rules", "src/mypackage/other.py"]

Each rule of these modules, files, folders and packages is a test, such as
`mypackage/rules.py::rule[square]`. It fails where the rule is wrong, with the line of its backward
function; where it cannot be judged it is skipped with the reason, or fails too with
`funcnet_strict = true`. `funcnet_fail_on = ["imprecise"]` names further verdicts that fail,
`funcnet_examples = 3` draws as many sample inputs where these are drawn. Rules join every run of
whole folders, and none of a single file or test, but for their own.

pytest imports this module in every run of anybody who has funcnet installed: it imports nothing,
and does nothing, where these settings are not made.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from funcnet import discovery

_STATE = pytest.StashKey["_Rules"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the settings."""
    parser.addini(
        "funcnet_rules",
        "modules, files, folders and packages whose backward rules are tests",
        type="linelist",
        default=[],
    )
    parser.addini(
        "funcnet_strict", "whether a rule that cannot be judged fails", type="bool", default=False
    )
    parser.addini(
        "funcnet_fail_on",
        "further verdicts that fail, such as imprecise",
        type="linelist",
        default=[],
    )
    parser.addini("funcnet_examples", "how many sample inputs to draw of a rule", default="1")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The rules of a file that pytest comes by, or that is named on the command line."""
    targets = parent.config.getini("funcnet_rules")
    if not targets or file_path.suffix != ".py":
        return None
    if any(_covers(target, file_path, parent.config.rootpath) for target in targets):
        return RuleFile.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose among them
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Adds the rules to a run of whole folders; most are in no folder of tests."""
    targets = config.getini("funcnet_rules")
    if not targets or not _is_whole(config):
        return
    known = {item.nodeid for item in items}
    for target in targets:
        for item in _items_of(session, target):
            if item.nodeid not in known:
                known.add(item.nodeid)
                items.append(item)


def _is_whole(config: pytest.Config) -> bool:
    """Whether a run is of folders, as by default, and not of chosen files or tests."""
    usual = set(config.getini("testpaths"))
    here = config.invocation_params.dir
    return all(arg in usual or os.path.isdir(here / arg) for arg in config.args)


def _covers(target: str, file: Path, root: Path) -> bool:
    """Whether a target's rules may be in a file; nothing is imported to know it."""
    word = target.rpartition(":")[0] or target
    place = (root / word).resolve()
    if place.exists():
        return place == file.resolve() or place in file.resolve().parents
    parts = word.split(".")
    inside = file.relative_to(root).with_suffix("").parts if root in file.parents else ()
    return any(list(inside[i : i + len(parts)]) == parts for i in range(len(inside)))


class _Rules:
    """What the settings name: each target's rules, and who judges them all."""

    def __init__(self, config: pytest.Config):
        from funcnet import discovery

        self.found: dict[str, discovery.Found] = {}
        self.missing: dict[str, str] = {}
        for target in dict.fromkeys(config.getini("funcnet_rules")):
            try:
                self.found[target] = discovery.find(discovery.load(target, config.rootpath))
            except discovery.TargetError as error:
                self.missing[target] = str(error)
            except Exception as error:  # a mistake of ours ends no run of theirs
                self.missing[target] = f"{target}: {type(error).__name__}: {error}"
        examples = str(config.getini("funcnet_examples"))
        if not examples.isdecimal() or int(examples) < 1:
            raise pytest.UsageError(
                f"funcnet_examples is {examples}, expected a number of at least 1."
            )
        rules = tuple(rule for found in self.found.values() for rule in found.rules)
        self.judge = discovery.Judge(discovery.Found(rules), examples=int(examples))


def _rules(config: pytest.Config) -> _Rules:
    if _STATE not in config.stash:
        config.stash[_STATE] = _Rules(config)
    return config.stash[_STATE]


def _items_of(session: pytest.Session, target: str) -> Iterator[pytest.Item]:
    """A target's rules as tests: each below the file of its module."""
    rules, config = _rules(session.config), session.config
    settings = config.inipath or config.rootpath
    if target in rules.missing:
        reason = f"funcnet_rules: {rules.missing[target]}"
        file = RuleFile.from_parent(session, path=settings)
        yield Problem.from_parent(file, name=f"rule[{target}]", reason=reason)
        return
    found = rules.found[target]
    files = {}
    for path in _files(found, settings):
        files[path] = RuleFile.from_parent(session, path=path)
        yield from _items_in(files[path], found, path, settings)
    if not files:
        reason = "; ".join((f"funcnet_rules: no rule is found in {target}", *found.notes))
        file = RuleFile.from_parent(session, path=settings)
        yield Problem.from_parent(file, name=f"rule[{target}]", reason=reason)


def _files(found: discovery.Found, otherwise: Path) -> list[Path]:
    """The files of a target that have rules or that do not import."""
    paths = [Path(broken.file) if broken.file else otherwise for broken in found.broken]
    return list(dict.fromkeys([*paths, *(_file(rule) for rule in found.rules)]))


def _file(rule: discovery.Rule) -> Path:
    """The file of the module in which a rule is found: a factory's is another one."""
    return Path(str(rule.space.get("__file__") or rule.file))


def _items_in(
    file: pytest.Collector, found: discovery.Found, path: Path, otherwise: Path
) -> Iterator[pytest.Item]:
    """The items of one of a target's files."""
    for broken in found.broken:
        if path == (Path(broken.file) if broken.file else otherwise):
            reason = f"{broken.module} does not import: {broken.reason}\n\n{broken.trace}"
            yield Problem.from_parent(file, name="rule[import]", reason=reason)
    judge = _rules(file.config).judge
    for rule in found.rules:
        if path == _file(rule):
            yield RuleItem.from_parent(file, name=f"rule[{rule.name}]", rule=rule, judge=judge)


class RuleFile(pytest.File):
    """The rules of one file."""

    def collect(self) -> Iterator[pytest.Item]:
        """The file's rules, where pytest came by it."""
        names = set()
        for found in _rules(self.config).found.values():
            for path in _files(found, self.path):
                if _same(path, self.path):
                    for item in _items_in(self, found, path, self.path):
                        if item.name not in names:
                            names.add(item.name)
                            yield item


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


class RuleFailureError(Exception):
    """A rule's failures, which are shown as they are: the traceback would be the checker's."""


class RuleItem(pytest.Item):
    """One rule."""

    def __init__(self, *, rule: discovery.Rule, judge: discovery.Judge, **known: Any):
        super().__init__(**known)
        self.rule, self.judge = rule, judge

    def runtest(self) -> None:
        """Checks the rule on each of its samples."""
        from funcnet import discovery

        fail_on = [word.replace("-", " ") for word in self.config.getini("funcnet_fail_on")]
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # of JAX's own warnings no rule is wrong
            judgements = self.judge.judge(self.rule)
        code = discovery.exit_code(judgements, fail_on)
        if code == 3 and not self.config.getini("funcnet_strict"):
            reasons = dict.fromkeys(j.reason for j in judgements if j.reason)
            raise pytest.skip.Exception("; ".join(reasons), _use_item_location=True)
        if code:
            bad = [j for j in judgements if discovery.exit_code([j], fail_on) == code]
            raise RuleFailureError(
                "\n".join(f"{discovery.shown(j.file)}:{j.line}: {j.text}\n{j.trace}" for j in bad)
            )

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """The failures alone."""
        if isinstance(excinfo.value, RuleFailureError):
            return str(excinfo.value).rstrip()
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path | str, int | None, str]:
        """Where the backward function is."""
        return self.rule.file or self.path, max(self.rule.line - 1, 0), self.name


class Problem(pytest.Item):
    """Why a target of the settings has no rules, which is no success."""

    def __init__(self, *, reason: str, **known: Any):
        super().__init__(**known)
        self.reason = reason

    def runtest(self) -> None:
        """Fails."""
        raise RuleFailureError(self.reason)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """The reason alone."""
        return self.reason

    def reportinfo(self) -> tuple[Path | str, int | None, str]:
        """The file that is meant."""
        return self.path, 0, self.name
