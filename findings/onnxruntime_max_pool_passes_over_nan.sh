#!/usr/bin/env bash
# onnxruntime 1.32.0 on a CPU (onnx 1.23.2, numpy 2.4.6): MaxPool gives the largest number of a window
# that has a NaN in it, and a NaN only where the window has nothing else; AveragePool gives NaN. So a
# network whose activations are no numbers any more may give finite outputs.
#
# Seen, of a window of NaN, 1, 2 and 3, and one of NaN alone:
#   MaxPool 3.0 nan AveragePool nan nan
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
"$(command -v python3.11 || command -v python3)" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "onnxruntime==1.32.0" "onnx==1.23.2" "numpy==2.4.6"
found="$("$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

words = []
for operation in ("MaxPool", "AveragePool"):
    node = helper.make_node(operation, ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, None, None]) for n in "xy")
    model = helper.make_model(
        helper.make_graph([node], "pool", [x], [y]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    images = np.array([[[[np.nan, 1, np.nan, np.nan], [2, 3, np.nan, np.nan]]]], np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": images})
    words += [operation, *found.ravel().tolist()]
print(*words)
PYTHON
)"
echo "$found"
expected="MaxPool 3.0 nan AveragePool nan nan"
[ "$found" = "$expected" ] || { echo "changed: expected $expected"; exit 1; }
