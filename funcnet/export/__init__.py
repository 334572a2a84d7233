r"""Trained nets for other programs: ONNX, StableHLO and safetensors.

The first two are the whole function, raw examples in and logits or targets out, with the
preprocessing and the parameters inside; the third is the numbers, under their names.

| | what it is | who runs it |
|---|---|---|
| `to_onnx` | a graph of standard operations | onnxruntime and whatever reads ONNX |
| `to_stablehlo` | the program that JAX compiles, for CPU, CUDA and TPU | JAX alone |
| `to_safetensors` | named arrays, and the net as JSON | anybody's own program |
"""

from funcnet._homes import at_home
from funcnet.export._onnx import to_onnx
from funcnet.export._safetensors import to_safetensors
from funcnet.export._stablehlo import to_stablehlo

__all__ = ["to_onnx", "to_safetensors", "to_stablehlo"]

at_home(globals())
