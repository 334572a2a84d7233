#!/usr/bin/env bash
# Builds the stress driver under AddressSanitizer (with UndefinedBehaviorSanitizer and the leak
# checker) and under ThreadSanitizer, and runs it: about two minutes on two cores.
#
#   native/sanitize.sh [address|thread ...]
#
# Needs CMake, GCC or Clang with their sanitizers, and a Python with jax and the two oneDNN wheels
# (`pip install onednn-devel-cpu-gomp==2023.2.0`), or a system oneDNN 3.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v "${PYTHON:-python3}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- address thread

for sanitizer in "$@"; do
  checks=$sanitizer
  [ "$sanitizer" = address ] && checks=address,undefined
  flags="-fsanitize=$checks -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"
  cmake -S "$here" -B "$work/$sanitizer" -DFUNCNET_NATIVE_DRIVER=ON -DPython_EXECUTABLE="$python" \
    -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="$flags" ${DNNL_DIR:+-Ddnnl_DIR="$DNNL_DIR"} \
    > "$work/log" || { cat "$work/log"; exit 1; }
  cmake --build "$work/$sanitizer" --target driver
  echo "== $sanitizer"
  ASAN_OPTIONS=detect_leaks=1 TSAN_OPTIONS=halt_on_error=0 "$work/$sanitizer/driver"
done
