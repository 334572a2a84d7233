"""A trained net as a graph of ONNX's standard operations."""

from __future__ import annotations

import json
import os
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._files import replacing
from funcnet._machine import VERSION
from funcnet.export._blocks import translated
from funcnet.export._graph import Graph, Tensor
from funcnet.export._program import Examples, program, shape_of
from funcnet.train import Trained

OPSET, IR_VERSION = 17, 8  # of 2022, so that older runtimes have them too


def to_onnx(trained: Trained, path: str | os.PathLike[str], *, dtype: Examples = "float32") -> None:
    r"""Writes what a trained net computes as ONNX, block by block.

    The input `examples` (n, ...), n of any size, are raw examples, channels last, as the data set
    has them; the output `outputs` (n, classes) are logits or targets. All is computed in float32,
    whatever the dtype of the parameters, which keep their names (`affine1.w`). The metadata hold
    "task", "classes" (a JSON list), "net" and "funcnet". Runtimes agree with the net to rounding;
    of NaN not all do: onnxruntime's max pools pass it over.

    Args:
      trained: `run.trained`, or what `funcnet.load` returns.
      path: the file, `net.onnx` for example.
      dtype: of the examples that it takes.

    Raises:
      ImportError: onnx is not installed.
      OSError: the file cannot be written.
      TypeError: it is no `Trained`.
      ValueError: a block is not one of `nets`, or ONNX has it not with its padding (a few of
        `conv_transpose`); float32 cannot hold the raw examples, see `data.preprocess`; the dtype
        is another.

    Source: https://onnx.ai/onnx/operators, opset 17.

    >>> import onnx, tempfile
    >>> from funcnet import data, nets, optimizers, train
    >>> dataset, net = data.synthetic(sizes=(60, 20, 20), classes=3), nets.two_layer_net(5, 3)
    >>> run = train.fit(net, dataset, optimizers.adam(0.1), epochs=1, batch_size=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_onnx(run.trained, folder + "/net.onnx")
    ...     graph = onnx.load(folder + "/net.onnx").graph
    >>> [node.op_type for node in graph.node]
    ['Sub', 'Mul', 'Flatten', 'Gemm', 'Relu', 'Gemm', 'Identity']
    """
    outputs = program("to_onnx", trained, dtype)
    onnx = _onnx()
    found = jax.eval_shape(outputs, shape_of(trained, dtype))
    graph = Graph(onnx)
    x = _preprocessed(graph, trained, dtype)
    params, state = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), (trained.params, trained.state)
    )
    x = graph.last(translated(graph, trained.net, params, state, x))
    graph.nodes.append(onnx.helper.make_node("Identity", [x.name], ["outputs"]))
    kind = onnx.TensorProto.UINT8 if dtype == "uint8" else onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "funcnet",
            [info("examples", kind, ["n", *trained.input_shape])],
            [info("outputs", onnx.TensorProto.FLOAT, ["n", *found.shape[1:]])],
            graph.constants,
        ),
        producer_name="funcnet",
        producer_version=VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.helper.set_model_props(model, _metadata(trained))
    with replacing(path) as file:
        file.write(model.SerializeToString())


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError('to_onnx needs onnx: pip install "funcnet[export]"') from error
    return onnx


def _preprocessed(graph: Graph, trained: Trained, dtype: Examples) -> Tensor:
    r"""The examples as the net sees them, $(x - \text{mean}) \cdot \text{scale}$."""
    x = Tensor("examples", trained.input_shape)
    if dtype == "uint8":
        x = x._replace(name=graph.node("preprocessing", "Cast", x.name, to=1))  # FLOAT
    for operation, name, neutral in (("Sub", "mean", 0.0), ("Mul", "scale", 1.0)):
        statistic = np.asarray(getattr(trained.preprocessing, name), np.float32)[None]
        if (statistic != neutral).any():
            constant = graph.constant(f"preprocessing.{name}", statistic)
            x = x._replace(name=graph.node("preprocessing", operation, x.name, constant))
    return x


def _metadata(trained: Trained) -> dict[str, str]:
    classes: list[Any] = [getattr(name, "item", lambda n=name: n)() for name in trained.classes]
    return {
        "task": trained.task,
        "classes": json.dumps(classes, ensure_ascii=False),
        "net": repr(trained.net),
        "funcnet": VERSION,
    }
