"""Where public names live: in the room that shows them, whatever file they are written in."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints


def at_home(door: dict[str, Any]) -> None:
    """Makes a room the home of the classes in its `__all__`; called last, with `globals()`.

    What is printed, pickled or caught is then named as people import it: `funcnet.train.Run`.
    Annotations become what they stand for: their names are those of the file that they are from.

    >>> from funcnet import checkpoint
    >>> checkpoint.LockedError.__module__
    'funcnet.checkpoint'
    """
    for name in door["__all__"]:
        public = door[name]
        if isinstance(public, type) and _is_private(public.__module__):
            own, hints = (
                inspect.get_annotations(public),
                get_type_hints(public, include_extras=True),
            )
            public.__annotations__ = {name: hints[name] for name in own}
            public.__module__ = door["__name__"]


def _is_private(module: str) -> bool:
    return module.startswith("funcnet.") and "._" in module
