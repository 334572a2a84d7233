#!/usr/bin/env bash
# jax 0.10.2 and 0.12.0.1: CPU devices of several processes talk by gloo, which writes a line on
# standard output, past Python's sys.stdout, when a set of devices talks for the first time: not once
# at the start, but amid the program, at the first collective over other devices than before. What is
# piped into another program, or printed as JSON, gets these lines between its own; redirecting
# sys.stdout does not hold them back. Seen, in process 0, which prints nothing but the words:
#   one device of each process
#   [Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1
#   all devices
#   [Gloo] Rank 1 is connected to 3 peer ranks. Expected number of connected peer ranks is : 3
#   [Gloo] Rank 0 is connected to 3 peer ranks. Expected number of connected peer ranks is : 3
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet jax==0.10.2
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
cat > "$folder/program.py" <<'PYTHON'
import contextlib
import io
import os
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

number, port = map(int, sys.argv[1:])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
devices = np.array(jax.devices()).reshape(2, 2)


def said(text):
    if number == 0:
        os.write(1, f"{text}\n".encode())


def total(chosen):
    mesh = Mesh(chosen, ("d",))
    ones = NamedSharding(mesh, PartitionSpec("d"))
    x = jax.make_array_from_callback((chosen.size,), ones, lambda index: np.ones(1, np.float32))
    whole = NamedSharding(mesh, PartitionSpec())
    return float(jax.jit(lambda x: x.sum(), out_shardings=whole)(x).addressable_data(0))


with contextlib.redirect_stdout(io.StringIO()):
    said("one device of each process")
    assert total(devices[:, 0]) == 2.0
    said("all devices")
    assert total(devices.ravel()) == 4.0
PYTHON
port="$("$folder/venv/bin/python" -c \
  'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
"$folder/venv/bin/python" "$folder/program.py" 1 "$port" >/dev/null 2>&1 &
"$folder/venv/bin/python" "$folder/program.py" 0 "$port" 2>/dev/null | tee "$folder/stdout"
wait
"$folder/venv/bin/python" - "$folder/stdout" <<'PYTHON'
import sys

lines = open(sys.argv[1]).read().splitlines()
first, second = (lines.index(line) for line in ("one device of each process", "all devices"))
gloo = [i for i, line in enumerate(lines) if line.startswith("[Gloo]")]
assert any(first < i < second for i in gloo), "the first set of devices is connected in silence"
assert any(i > second for i in gloo), "the second set of devices is connected in silence"
PYTHON
