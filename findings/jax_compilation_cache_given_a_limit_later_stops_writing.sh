#!/usr/bin/env bash
# jax 0.10.2: a folder of compiled programs that was filled without jax_compilation_cache_max_size and
# is then given one takes no program any more: each write looks for the time of the last use of every
# entry, which those from before do not have, and fails. The run goes on with a warning a program, and
# compiles all of it again the next time. jax 0.12.0.1 passes over such entries and writes.
#
# Seen, the programs in the folder after one, and after another one with a limit of a gigabyte:
#   0.10.2 1 1
#   0.12.0.1 1 2
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
cat >"$folder/compiled.py" <<'PYTHON'
import pathlib, sys, warnings
import jax

warnings.simplefilter("ignore")
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_compilation_cache_max_size", int(sys.argv[2]))
scale = float(sys.argv[3])
jax.jit(lambda x: x * scale + 1).lower(jax.ShapeDtypeStruct((3,), "float32")).compile()
print(len(list(pathlib.Path(sys.argv[1]).glob("*-cache"))))
PYTHON

run() { # a Python, a version of jax, what is expected
  "$1" -m venv "$folder/$2"
  local python="$folder/$2/bin/python"
  "$python" -m pip install --quiet --disable-pip-version-check \
    "jax==$2" "jaxlib==$2" "filelock==3.20.0"
  export JAX_PLATFORMS=cpu
  found="$2 $("$python" "$folder/compiled.py" "$folder/cache$2" -1 2)"
  found="$found $("$python" "$folder/compiled.py" "$folder/cache$2" 1000000000 3 2>/dev/null)"
  echo "$found"
  [[ "$found" == "$3" ]] || { echo "changed: expected $3"; exit 1; }
}

newest=""
for candidate in python3.12 python3.13 "$(pyenv root 2>/dev/null || true)"/versions/3.1[23].*/bin/python; do
  "$candidate" -c "" 2>/dev/null && newest="$candidate" && break
done
run "$(command -v python3.11 || command -v python3)" 0.10.2 "0.10.2 1 1"
if [ -n "$newest" ]; then
  run "$newest" 0.12.0.1 "0.12.0.1 1 2"
else
  echo "no Python 3.12 or later at hand: jax 0.12 was not tried"
fi
