"""A graph of ONNX as it grows: nodes, constants, and where the channels of its tensors are."""

from __future__ import annotations

from collections import Counter
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """A value in the graph.

    Attributes:
      name: in the graph.
      shape: of one example, channels last, whatever the layout.
      channels_first: whether it is laid out as ONNX's convolutions and pools have it.
    """

    name: str
    shape: tuple[int, ...]
    channels_first: bool = False


class Graph:
    """Nodes and constants in the order in which they are added."""

    def __init__(self, onnx: ModuleType):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._onnx = onnx
        self._names: Counter[str] = Counter()

    def node(self, where: str, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation of a block, and returns the name of what it gives."""
        name = f"{where}/{operation}".lstrip("/")
        self._names[name] += 1
        if self._names[name] > 1:
            name += str(self._names[name])
        node = self._onnx.helper.make_node(operation, list(inputs), [name], name, **attributes)
        self.nodes.append(node)
        return name

    def constant(self, name: str, array: Any) -> str:
        """Adds numbers, floats as float32, and returns their name."""
        array = np.asarray(array)
        if array.dtype != np.int64:
            array = array.astype(np.float32)
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def first(self, x: Tensor) -> Tensor:
        """The tensor with its channels first."""
        if x.channels_first or len(x.shape) < 2:
            return x._replace(channels_first=True)
        axes = [0, len(x.shape), *range(1, len(x.shape))]
        name = self.node(x.name, "Transpose", x.name, perm=axes)
        return Tensor(name, x.shape, channels_first=True)

    def last(self, x: Tensor) -> Tensor:
        """The tensor with its channels last."""
        if not x.channels_first or len(x.shape) < 2:
            return x._replace(channels_first=False)
        axes = [0, *range(2, len(x.shape) + 1), 1]
        return Tensor(self.node(x.name, "Transpose", x.name, perm=axes), x.shape)
