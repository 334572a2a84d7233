r"""The rules of other people's files and packages, found and checked where they are.

`load` imports what a target names, `find` finds its rules, `samples_of` their sample inputs, and a
`Judge` puts each through `checks.check_rule`. `to_json`, `to_junit`, `to_sarif` and `to_github`
write down what came of it, with the file and the line of each backward function. It is what
`funcnet check TARGET` and the pytest plugin are made of.

>>> found = find(load("funcnet.losses:mean_squared_error"))
>>> [rule.label for rule in found.rules]
['funcnet.losses:mean_squared_error']
"""

from funcnet._homes import at_home
from funcnet.discovery._annotations import UnannotatedError, annotated
from funcnet.discovery._arguments import ArgumentError, text, words
from funcnet.discovery._arguments import Call as Arguments
from funcnet.discovery._find import Found, Rule, find, place_of
from funcnet.discovery._formats import shown, to_github, to_json, to_junit, to_sarif
from funcnet.discovery._judge import Judge, Judgement, exit_code
from funcnet.discovery._samples import (
    NoSampleError,
    Sample,
    SampleError,
    generator,
    samples_of,
)
from funcnet.discovery._targets import Broken, Target, TargetError, load

__all__ = [
    "ArgumentError",
    "Arguments",
    "Broken",
    "Found",
    "Judge",
    "Judgement",
    "NoSampleError",
    "Rule",
    "Sample",
    "SampleError",
    "Target",
    "TargetError",
    "UnannotatedError",
    "annotated",
    "exit_code",
    "find",
    "generator",
    "load",
    "place_of",
    "samples_of",
    "shown",
    "text",
    "to_github",
    "to_json",
    "to_junit",
    "to_sarif",
    "words",
]

at_home(globals())
