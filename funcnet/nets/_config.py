"""A net as JSON: the function that made it and its arguments, of which it is made again."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from funcnet.nets._net import Made, Net

P = ParamSpec("P")
_MAKERS: dict[str, Callable[..., Net]] = {}


def configured(function: Callable[P, Net]) -> Callable[P, Net]:
    """Lets the nets of a function say what made them: see `to_config`."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def make(*args: P.args, **options: P.kwargs) -> Net:
        net = function(*args, **options)
        bound = signature.bind(*args, **options)
        try:
            said = ", ".join(_said(signature, bound.arguments))
            bound.apply_defaults()
            arguments = {name: _plain(value) for name, value in bound.arguments.items()}
            config = json.dumps({"net": function.__name__, **arguments})
        except (TypeError, ValueError):
            return net._replace(made=None)  # a part or a number that is nobody's but the caller's
        return net._replace(made=Made(config, f"nets.{function.__name__}({said})"))

    _MAKERS[function.__name__] = make
    return make


def _said(signature: inspect.Signature, arguments: Mapping[str, Any]) -> list[str]:
    """The arguments as they would be written, without those that are the default."""
    said: list[str] = []
    for name, value in arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            said += map(repr, value)
        elif value is not parameter.default and value != parameter.default:
            said.append(f"{name}={value!r}")
    return said


def _plain(value: Any) -> Any:
    """An argument as JSON has it; TypeError where it has none."""
    if isinstance(value, Net):
        return to_config(value)
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "item"):
        return value.item()  # refused by JAX where it is traced
    return value


def to_config(net: Net) -> dict[str, Any]:
    r"""What a net is made by, as JSON: the function of this module, and all its arguments.

    Args:
      net: a net of this module's functions, and of nets of these.

    Returns:
      {"net": the function's name, ...: its arguments}, for `from_config`.

    Raises:
      ValueError: the net, or one inside it, is somebody's own `Net(init, apply)`, or was made with
        a traced number.

    >>> from funcnet import nets
    >>> nets.to_config(nets.two_layer_net(50, classes=10))
    {'net': 'two_layer_net', 'hidden': 50, 'classes': 10, 'weight_scale': 'he'}
    """
    if net.made is None:
        raise ValueError(
            "nets.to_config: the net is not made of the functions of funcnet.nets alone, so that "
            "its parameters can be written down but not what it computes."
        )
    return json.loads(net.made.config)


def from_config(config: Mapping[str, Any]) -> Net:
    r"""The net that `to_config` has written down.

    Args:
      config: the function's name under "net", and its arguments; a net among them is such a
        mapping. Arguments that are not there have their defaults.

    Returns:
      The net, equal in what it computes to the one that was written down.

    Raises:
      TypeError: it is no mapping with the name of a function, or an argument is of a wrong kind.
      ValueError: there is no such function, or it takes no such arguments.

    >>> from funcnet import nets
    >>> nets.from_config({"net": "serial", "blocks": [{"net": "affine", "units": 3}]})
    nets.serial(nets.affine(units=3))
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("net"), str):
        raise TypeError(
            f"nets.from_config: config is {str(config)[:80]!r}, expected a mapping with the name "
            'of a function of funcnet.nets under "net".'
        )
    name = config["net"]
    if name not in _MAKERS:
        raise ValueError(
            f"nets.from_config: there is no net {name!r}, expected one of {', '.join(_MAKERS)}."
        )
    arguments = {key: _argument(value) for key, value in config.items() if key != "net"}
    make = _MAKERS[name]
    blocks = arguments.pop("blocks", ()) if name == "serial" else ()
    try:
        bound = inspect.signature(make).bind(*blocks, **arguments)
    except TypeError as error:
        raise ValueError(f"nets.from_config: {name}: {error}.") from None
    return make(*bound.args, **bound.kwargs)


def _argument(value: Any) -> Any:
    """An argument out of JSON: nets are made, lists are tuples."""
    if isinstance(value, Mapping):
        return from_config(value)
    return tuple(map(_argument, value)) if isinstance(value, list | tuple) else value
