"""What is annotated is true: hints resolve to types, and a user's file passes the type checker."""

import inspect
import typing

import pytest

import funcnet
from tests.support.processes import ROOT, python

SAMPLE = ROOT / "tests/support/typed_sample"


def functions_and_classes(room):
    """The public ones of a room, and the methods that its classes have written out."""
    for name in room.__all__:
        public = getattr(room, name)
        if isinstance(public, type):
            for attribute in vars(public).values():
                method = getattr(attribute, "fget", getattr(attribute, "__func__", attribute))
                if inspect.isfunction(method) and not method.__code__.co_filename.startswith("<"):
                    yield f"{name}.{method.__name__}", method
        if isinstance(public, type) or (callable(public) and hasattr(public, "__annotations__")):
            yield name, public


ROOMS = [name for name in funcnet.__all__ if inspect.ismodule(getattr(funcnet, name))]


@pytest.mark.parametrize("name", ROOMS)
def test_the_hints_of_all_that_is_public_resolve(name):
    seen, faults = 0, []
    for public, value in functions_and_classes(getattr(funcnet, name)):
        seen += 1
        try:
            typing.get_type_hints(value, include_extras=True)
        except Exception as error:
            faults.append(f"{public}: {type(error).__name__}: {error}")
    assert seen
    assert not faults, "\n".join(faults)


def test_the_fields_of_a_public_class_have_the_types_that_were_written():
    hints = typing.get_type_hints(funcnet.train.TrainState)
    assert hints["params"] is typing.Any
    assert typing.get_type_hints(funcnet.data.Location)["found"] is bool


@pytest.mark.slow
def test_a_users_file_passes_the_strict_type_checker(tmp_path):
    """It is run too: what a type checker lets pass may still be no field."""
    pytest.importorskip("mypy")
    arguments = ["--config-file", str(SAMPLE / "mypy.ini"), "--cache-dir", str(tmp_path)]
    assert "no issues" in python("-m", "mypy", *arguments, str(SAMPLE / "sample.py"))
    said = python(str(SAMPLE / "sample.py"), cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert said.splitlines()[-1].endswith(" True")
