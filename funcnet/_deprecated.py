"""Former names of arguments, which are understood for one release."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed(**names: str) -> Callable[[Function], Function]:
    """Lets a function take keyword arguments by their former names: `renamed(former="name")`.

    Each warns with a DeprecationWarning that says the name; both at once raise TypeError.

    >>> import warnings
    >>> @renamed(colour="color")
    ... def draw(color="black"):
    ...     return color
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     draw(colour="red"), str(said[0].message)
    ('red', 'draw: colour is deprecated, its name is color.')
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            for former in names.keys() & options.keys():
                name, said = names[former], function.__name__
                if name in options:
                    raise TypeError(f"{said}: {name} is given twice, once as {former}.")
                text = f"{said}: {former} is deprecated, its name is {name}."
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                options[name] = options.pop(former)
            return function(*args, **options)

        return call  # type: ignore[return-value]

    return decorate
