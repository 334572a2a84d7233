#!/usr/bin/env bash
# safetensors 0.8.0, ml_dtypes 0.6.0, numpy 2.4.6.
#
# safetensors.numpy writes five kinds of float8 from NumPy arrays and reads none of them again:
# `load` and `safe_open` look the dtype up where it is not. Two kinds of reader fail in two ways, and
# `safetensors.deserialize`, which hands out bytes, is the only way back.
# And NumPy's own format gives float8_e5m2 the descr '<f1', which np.load does not understand, while
# every other float8 and int4 comes back as one nameless byte, V1, indistinguishable from another.
#
# Seen:
#   float8_e4m3fn load KeyError safe_open AttributeError bytes 3
#   float8_e4m3fnuz load KeyError safe_open AttributeError bytes 3
#   float8_e5m2 load KeyError safe_open AttributeError bytes 3
#   float8_e5m2fnuz load KeyError safe_open AttributeError bytes 3
#   float8_e8m0fnu load KeyError safe_open AttributeError bytes 3
#   npy float8_e5m2 ValueError
#   npy float8_e4m3fn |V1
#   npy int4 |V1
set -euo pipefail
here=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
cat > seen.py <<'PY'
import io
import ml_dtypes, numpy as np
from safetensors import deserialize, safe_open
from safetensors.numpy import load, save

def outcome(call):
    try:
        return str(call().dtype.str)
    except Exception as error:
        return type(error).__name__

names = "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu".split()
for name in names:
    content = save({"w": np.ones(3, getattr(ml_dtypes, name))})
    open("w.safetensors", "wb").write(content)
    with safe_open("w.safetensors", "numpy") as file:
        opened = outcome(lambda: file.get_tensor("w"))
    loaded = outcome(lambda: load(content)["w"])
    print(name, "load", loaded, "safe_open", opened, "bytes", len(dict(deserialize(content))["w"]["data"]))
for name in ("float8_e5m2", "float8_e4m3fn", "int4"):
    file = io.BytesIO()
    np.save(file, np.ones(3, getattr(ml_dtypes, name)))
    file.seek(0)
    print("npy", name, outcome(lambda: np.load(file)))
PY
venv/bin/python seen.py | tee seen.txt
sed -n 's/^#   //p' "$here" | diff - seen.txt
