#!/usr/bin/env bash
# onnxruntime 1.32.0 on a CPU (onnx 1.23.2, numpy 2.4.6): LayerNormalization and InstanceNormalization of
# float32 rows that lie far from 0 are wrong by more than a thousand times the rounding. The same operations
# behind x - ReduceMean(x), which is the same function, are right. (microsoft/onnxruntime issue 21935 has NaN
# for constant rows, in 1.19.)
#
# Seen, the largest error in units of 2^-23, of 64 normal numbers in each of 100 rows around 1e5, is above:
#   LayerNormalization 1000 InstanceNormalization 1000, and behind x - ReduceMean(x) below 10 and 10
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

rows = (1e5 + np.random.default_rng(0).normal(size=(100, 1, 64))).astype(np.float32)
exact = rows.astype(np.float64)
want = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
words = []
for operation, size in (("LayerNormalization", 64), ("InstanceNormalization", 1)):
    for centred in (False, True):
        nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1], keepdims=1)] * centred
        nodes += [helper.make_node("Sub", ["x", "mean"], ["left"])] * centred
        of = "left" if centred else "x"
        nodes.append(helper.make_node(operation, [of, "scale", "bias"], ["y"], epsilon=1e-5))
        sizes = {"x": [None, 1, 64], "scale": [size], "bias": [size], "y": [None, 1, 64]}
        infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes.items()}
        y = infos.pop("y")
        model = helper.make_model(
            helper.make_graph(nodes, "norm", list(infos.values()), [y]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        inputs = {"x": rows, "scale": np.ones(size, "f"), "bias": np.zeros(size, "f")}
        session = onnxruntime.InferenceSession(model.SerializeToString())
        error = np.abs(session.run(None, inputs)[0] - want).max() * 2**23
        words.append("right" if error < 10 else "wrong" if error > 1000 else f"{error:.0f}")
print(*words)
PYTHON
)"
echo "$found"
expected="wrong right wrong right"
[ "$found" = "$expected" ] || { echo "changed: expected $expected"; exit 1; }
