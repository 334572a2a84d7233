r"""Convolutions and products by oneDNN, as FFI targets for XLA on a CPU.

Importing this package loads oneDNN and registers the targets named in `TARGETS` for the platform
"cpu"; it raises ImportError, in one line, where that cannot be done. The functions below call the
targets. They have no derivatives of their own: whoever builds an operation on them gives it its
rules. Float32 only; images are (n, h, w, channels), kernels (height, width, in, out).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import pathlib
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from funcnet_native._gelu import gelu, gelu_gradient
from funcnet_native._pools import avg_pool, avg_pool_gradient, max_pool, max_pool_gradient

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Winograd = Literal[0, 2, 4]
Kind = Literal["conv", "conv_kernel_gradient", "conv_input_gradient"]

__all__ = [
    "INTERFACE",
    "ISA",
    "TARGETS",
    "VERSION",
    "avg_pool",
    "avg_pool_gradient",
    "cache_capacity",
    "cache_size",
    "conv",
    "conv_input_gradient",
    "conv_kernel_gradient",
    "conv_pool",
    "conv_pool_kernel_gradient",
    "gelu",
    "gelu_gradient",
    "implementation",
    "matmul",
    "max_pool",
    "max_pool_gradient",
    "norm",
    "norm_gradient",
    "supports",
]

INTERFACE = 4  # counts up with the targets and their attributes; funcnet asks for its own

TARGETS = (
    "funcnet_conv",
    "funcnet_conv_kernel_gradient",
    "funcnet_conv_input_gradient",
    "funcnet_conv_pool",
    "funcnet_conv_pool_kernel_gradient",
    "funcnet_matmul",
    "funcnet_norm",
    "funcnet_norm_gradient",
    "funcnet_max_pool",
    "funcnet_max_pool_gradient",
    "funcnet_avg_pool",
    "funcnet_avg_pool_gradient",
    "funcnet_gelu",
    "funcnet_gelu_gradient",
)
_KINDS: tuple[Kind, ...] = ("conv", "conv_kernel_gradient", "conv_input_gradient")

# dnnl_cpu_isa_t: each set of instructions is a set of bits that holds the ones before it.
_ISA_NAMES = {
    0x0: "generic",
    0x1: "SSE4.1",
    0x3: "AVX",
    0x7: "AVX2",
    0xF: "AVX2 with VNNI",
    0x1F: "AVX2 with VNNI 2",
    0x27: "AVX-512",
    0x67: "AVX-512 with VNNI",
    0xE7: "AVX-512 with bfloat16",
    0x1EF: "AVX-512 with float16",
    0xFEF: "AMX",
    0x1FEF: "AMX with float16",
}


def _load() -> ctypes.CDLL:
    here = pathlib.Path(__file__).parent
    name = "libfuncnet_native.so"
    try:
        # A library already loaded by its name serves every later one that needs it, wherever pip
        # put the wheel. Without the wheel it is a system oneDNN, which the linker finds.
        for file in importlib.metadata.files("onednn-cpu-gomp") or ():
            if file.name == "libdnnl.so.3":
                ctypes.CDLL(str(pathlib.Path(str(file.locate())).resolve()))
                break
    except importlib.metadata.PackageNotFoundError:
        pass
    except OSError as error:
        raise ImportError(f"funcnet_native: oneDNN's library cannot be loaded: {error}") from None
    folder = next((f for f in (here, *_site_folders()) if (f / name).exists()), None)
    if folder is None:
        raise ImportError(f"funcnet_native: {name} was not built; run `pip install ./native`")
    try:
        return ctypes.CDLL(str(folder / name))
    except OSError as error:
        raise ImportError(f"funcnet_native: {name} cannot be loaded: {error}") from None


def _site_folders() -> list[pathlib.Path]:
    """Where an editable install leaves the library: its package folder in site-packages."""
    try:
        files = importlib.metadata.files("funcnet-native") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [pathlib.Path(str(f.locate())).parent for f in files if f.suffix == ".so"]


def _version(library: ctypes.CDLL) -> tuple[str, str]:
    numbers = (ctypes.c_int64 * 6)()
    library.funcnet_native_version(numbers)
    loaded, headers, isa = tuple(numbers[:3]), tuple(numbers[3:5]), int(numbers[5])
    if loaded[0] != headers[0] or loaded[1] < headers[1]:
        raise ImportError(
            f"funcnet_native: built for oneDNN {headers[0]}.{headers[1]}, but "
            f"{'.'.join(map(str, loaded))} was loaded; reinstall with `pip install ./native`"
        )
    return ".".join(map(str, loaded)), _ISA_NAMES.get(isa, f"instruction set {isa:#x}")


_library = _load()
_library.funcnet_native_cache_size.restype = ctypes.c_size_t
_library.funcnet_native_cache_capacity.restype = ctypes.c_size_t
_library.funcnet_native_implementation.restype = ctypes.c_bool
VERSION, ISA = _version(_library)
for _target in TARGETS:
    jax.ffi.register_ffi_target(
        _target, jax.ffi.pycapsule(getattr(_library, _target)), platform="cpu"
    )


def cache_size() -> int:
    """Compiled convolutions that are held now, of all shapes and kinds."""
    return int(_library.funcnet_native_cache_size())


def cache_capacity() -> int:
    """The most compiled convolutions that are held; beyond it the least recently used goes."""
    return int(_library.funcnet_native_cache_capacity())


@functools.lru_cache(maxsize=1024)
def _implementation(kind: Kind, numbers: tuple[int, ...], winograd: Winograd) -> tuple[bool, str]:
    name = ctypes.create_string_buffer(256)
    geometry = (ctypes.c_int64 * len(numbers))(*numbers)
    good = _library.funcnet_native_implementation(
        ctypes.c_int64(_KINDS.index(kind)),
        geometry,
        ctypes.c_int64(winograd),
        name,
        ctypes.c_size_t(len(name)),
    )
    return bool(good), name.value.decode()


def _numbers(
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
) -> tuple[int, ...]:
    """The numbers of C++'s `Geometry`, in its order."""
    n, height, width, cin = x
    kernel_height, kernel_width, _, cout = w
    before = pads[0][0], pads[1][0]
    sizes = (n, height, width, cin, cout, kernel_height, kernel_width, *y[1:3])
    return tuple(map(int, (*sizes, *stride, *before, *dilation, groups)))


def implementation(
    kind: Kind,
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
    winograd: Winograd = 2,
) -> str:
    """The name of the implementation of a convolution, or why there is none.

    "winograd 2x2" and "winograd 4x4" are our own, all others oneDNN's.

    Args:
      kind: "conv", "conv_kernel_gradient" or "conv_input_gradient".
      x: the shape of the images (n, h, w, cin).
      w: the shape of the kernel (kh, kw, cin, cout).
      y: the shape of the output or of its cotangent (n, oh, ow, cout).
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)).
      dilation: as in `conv`; so are groups and winograd.
      groups: of channels.
      winograd: outputs a side.
    """
    return _implementation(kind, _numbers(x, w, y, stride, pads, dilation, groups), winograd)[1]


def supports(
    kind: Kind,
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    stride: Pair,
    pads: Pads,
    dtype: DTypeLike = jnp.float32,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> bool:
    """Whether a convolution can be computed here, by other than oneDNN's slow reference code.

    Args:
      kind: "conv", "conv_kernel_gradient" or "conv_input_gradient".
      x: the shape of the images (n, h, w, cin).
      w: the shape of the kernel (kh, kw, cin, cout).
      y: the shape of the output or of its cotangent (n, oh, ow, cout); a cotangent may have fewer
        rows than the images would give, or more.
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)); negative numbers cut.
      dtype: the dtype of all operands.
      dilation: the step from tap to tap of the kernel in pixels, (height, width).
      groups: so many convolutions side by side, each of its own channels.
    """
    if np.dtype(dtype) != np.dtype(np.float32) or x[3] != groups * w[2]:
        return False
    good, name = _implementation(kind, _numbers(x, w, y, stride, pads, dilation, groups), 0)
    return good and not name.startswith("ref")


_ATTRIBUTES = (
    *("stride_h", "stride_w", "pad_top", "pad_bottom", "pad_left", "pad_right"),
    *("dilation_h", "dilation_w", "groups", "winograd"),
)


def _attributes(
    stride: Pair, pads: Pads, dilation: Pair, groups: int, winograd: Winograd
) -> dict[str, np.int64]:
    numbers = (*stride, *pads[0], *pads[1], *dilation, groups, winograd)
    return dict(zip(_ATTRIBUTES, map(np.int64, numbers), strict=True))


def _output_size(image: Pair, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair) -> Pair:
    height, width = (
        max((size + sum(pad) - (taps - 1) * gap - 1) // step + 1, 0)
        for size, taps, gap, step, pad in zip(image, kernel, dilation, stride, pads, strict=True)
    )
    return height, width


def conv(
    x: Array,
    w: Array,
    *,
    stride: Pair,
    pads: Pads,
    bias: Array | None = None,
    relu: bool = False,
    dilation: Pair = (1, 1),
    groups: int = 1,
    winograd: Winograd = 2,
) -> Array:
    r"""Cross-correlation of images with a kernel, plus a bias, through a ReLU.

    $y_{nijo} = \sum_{p,q,c} x_{n,\,i s_h + p d_h - t,\,j s_w + q d_w - l,\,c}\, w_{pqco} + b_o$.

    Args:
      x: images (n, h, w, cin).
      w: a kernel (kh, kw, cin, cout).
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)); negative numbers cut.
      bias: (cout,), or None.
      relu: whether negative outputs become 0; not-a-number stays.
      dilation: the step from tap to tap of the kernel in pixels, (height, width).
      groups: so many convolutions side by side, each of its own channels; the kernel is
        (kh, kw, cin // groups, cout).
      winograd: of a 3 by 3 kernel at stride 1, how many outputs a side may come at once by
        Winograd's filtering, where that is cheaper: 2 takes 16 products a pair of channels for 36,
        4 takes 36 for 144 and rounds 4 to 7 times as much; 0 is none of it. An infinity makes its
        tile NaN.

    Returns:
      (n, oh, ow, cout), oh being (h + above + below - (kh - 1) d_h - 1) // s_h + 1.
    """
    sizes = _output_size(x.shape[1:3], w.shape[:2], stride, pads, dilation)
    out = jax.ShapeDtypeStruct((x.shape[0], *sizes, w.shape[3]), x.dtype)
    operands = (x, w) if bias is None else (x, w, bias)
    return jax.ffi.ffi_call("funcnet_conv", out)(
        *operands, relu=bool(relu), **_attributes(stride, pads, dilation, groups, winograd)
    )


def conv_kernel_gradient(
    x: Array,
    dy: Array,
    size: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
    winograd: Winograd = 2,
) -> Array:
    r"""The gradient of $\langle dy, \mathrm{conv}(x, w) \rangle$ by w.

    Args:
      x: images (n, h, w, cin).
      dy: the cotangent (n, oh, ow, cout). How far the images are padded or cut below and on the
        right follows from its shape.
      size: the kernel's (height, width).
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)); below and right are not read.
      dilation: as in `conv`; so are groups and winograd.
      groups: of channels.
      winograd: outputs a side.

    Returns:
      (kh, kw, cin // groups, cout).
    """
    out = jax.ShapeDtypeStruct((*size, x.shape[3] // groups, dy.shape[3]), x.dtype)
    return jax.ffi.ffi_call("funcnet_conv_kernel_gradient", out)(
        x, dy, **_attributes(stride, pads, dilation, groups, winograd)
    )


def conv_input_gradient(
    dy: Array,
    w: Array,
    size: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
    winograd: Winograd = 2,
) -> Array:
    r"""The gradient of $\langle dy, \mathrm{conv}(x, w) \rangle$ by x.

    Args:
      dy: the cotangent (n, oh, ow, cout). How far the images are padded or cut below and on the
        right follows from its shape.
      w: a kernel (kh, kw, cin // groups, cout).
      size: the images' (height, width).
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)); below and right are not read.
      dilation: as in `conv`; so are groups and winograd.
      groups: of channels.
      winograd: outputs a side.

    Returns:
      (n, h, w, cin).
    """
    out = jax.ShapeDtypeStruct((dy.shape[0], *size, groups * w.shape[2]), dy.dtype)
    return jax.ffi.ffi_call("funcnet_conv_input_gradient", out)(
        dy, w, **_attributes(stride, pads, dilation, groups, winograd)
    )


def conv_pool(
    x: Array,
    w: Array,
    *,
    stride: Pair,
    pads: Pads,
    bias: Array | None = None,
    dilation: Pair = (1, 1),
    groups: int = 1,
    winograd: Winograd = 2,
) -> tuple[Array, Array]:
    r"""`conv` through a ReLU, and of its output the maximum of each window of 2 by 2.

    The output itself is never written; a last odd row or column of it is dropped.

    Args:
      x: images (n, h, w, cin).
      w: a kernel (kh, kw, cin // groups, cout).
      stride: as in `conv`; so are pads, dilation, groups and winograd.
      pads: pixels padded.
      bias: (cout,), or None.
      dilation: the step from tap to tap.
      groups: of channels.
      winograd: outputs a side.

    Returns:
      The maxima (n, oh // 2, ow // 2, cout), and which of its four cells in row-major order has it
      first, uint8 of that shape: 0 to 3, or 4 where it is not above 0. A NaN wins over numbers.
    """
    height, width = _output_size(x.shape[1:3], w.shape[:2], stride, pads, dilation)
    shape = (x.shape[0], height // 2, width // 2, w.shape[3])
    out = jax.ShapeDtypeStruct(shape, x.dtype), jax.ShapeDtypeStruct(shape, jnp.uint8)
    operands = (x, w) if bias is None else (x, w, bias)
    y, winner = jax.ffi.ffi_call("funcnet_conv_pool", out)(
        *operands, **_attributes(stride, pads, dilation, groups, winograd)
    )
    return y, winner


def conv_pool_kernel_gradient(
    x: Array,
    dy: Array,
    winner: Array,
    size: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
    winograd: Winograd = 2,
) -> Array:
    r"""The gradient of $\langle dy, y \rangle$ by w, with y and winner as `conv_pool` gave them.

    Not by Winograd's filtering.

    Args:
      x: images (n, h, w, cin).
      dy: the cotangent of the maxima, (n, oh // 2, ow // 2, cout).
      winner: uint8 of dy's shape; where it is 4 or more, dy goes nowhere.
      size: the kernel's (height, width).
      stride: as in `conv`; so are pads, dilation and groups.
      pads: pixels padded; below and right are not read.
      dilation: the step from tap to tap.
      groups: of channels.
      winograd: is not read.

    Returns:
      (kh, kw, cin // groups, cout).
    """
    out = jax.ShapeDtypeStruct((*size, x.shape[3] // groups, dy.shape[3]), x.dtype)
    return jax.ffi.ffi_call("funcnet_conv_pool_kernel_gradient", out)(
        x, dy, winner, **_attributes(stride, pads, dilation, groups, winograd)
    )


def matmul(
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Array | None = None,
    relu: bool = False,
) -> Array:
    r"""The product of two matrices, each as it is or transposed, plus a bias, through a ReLU.

    Args:
      a: (n, k), or (k, n) to be transposed.
      b: (k, m), or (m, k) to be transposed.
      transpose_a: whether `a` is transposed.
      transpose_b: whether `b` is transposed.
      bias: (m,), or None.
      relu: whether negative outputs become 0; not-a-number stays.

    Returns:
      (n, m).
    """
    shape = (a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1])
    operands = (a, b) if bias is None else (a, b, bias)
    return jax.ffi.ffi_call("funcnet_matmul", jax.ShapeDtypeStruct(shape, a.dtype))(
        *operands, transpose_a=bool(transpose_a), transpose_b=bool(transpose_b), relu=bool(relu)
    )


def norm(
    x: Array, gamma: Array, beta: Array, *, eps: float, centred: bool = True, relu: bool = False
) -> tuple[Array, Array, Array, Array, Array]:
    r"""Groups of numbers, each standardised by its own mean and variance, scaled and shifted.

    $y = \gamma \hat x + \beta$ with $\hat x = (x - \mu)/\sqrt{v + \epsilon}$, through a ReLU. Of
    (1, n, c, 1) it is batch normalisation, of (n, 1, 1, c) layer normalisation.

    Args:
      x: (n, rows, groups, channels), without a zero but n; the mean $\mu$ and the biased variance
        v of each group of each example are over its rows and channels.
      gamma: (groups, channels).
      beta: (groups, channels).
      eps: added to the variance.
      centred: whether the mean is taken off; else it is 0, and v the mean square.
      relu: whether negative outputs become 0; not-a-number stays.

    Returns:
      y, of x's shape; and of shape (n, groups) the mean, what its rounding has left of it, the
      variance, and $1/\sqrt{v + \epsilon}$.
    """
    numbers = jax.ShapeDtypeStruct((x.shape[0], x.shape[2]), x.dtype)
    results = (jax.ShapeDtypeStruct(x.shape, x.dtype), *(numbers,) * 4)
    return tuple(
        jax.ffi.ffi_call("funcnet_norm", results)(
            x, gamma, beta, eps=np.float64(eps), centred=bool(centred), relu=bool(relu)
        )
    )


def norm_gradient(
    dy: Array,
    x: Array,
    mean: Array,
    left: Array,
    inv_std: Array,
    gamma: Array,
    beta: Array,
    *,
    centred: bool = True,
    fixed: bool = False,
    relu: bool = False,
) -> tuple[Array, Array, Array]:
    r"""The gradients of $\langle dy, y \rangle$ by x, gamma and beta, with y as `norm` gives it.

    With $g = \gamma\,dy$ and means over a group: $d\beta = \sum dy$, $d\gamma = \sum dy\,\hat x$,
    $dx = \frac{1}{\sqrt{v + \epsilon}}\,(g - \overline{g} - \hat x\,\overline{g \hat x})$.

    Args:
      dy: the cotangent, of x's shape.
      x: (n, rows, groups, channels).
      mean: (n, groups), as `norm` has returned it; not read where it was not taken off.
      left: the same.
      inv_std: the same.
      gamma: (groups, channels).
      beta: (groups, channels), read where there is a ReLU.
      centred: whether `norm` has taken the mean off; else $\overline{g}$ is 0.
      fixed: whether the statistics were given, and do not depend on x: both means of g are 0.
      relu: whether `norm` had one: what it has cut off gets no gradient. Not with `fixed`.

    Returns:
      dx, dgamma, dbeta.
    """
    results = tuple(jax.ShapeDtypeStruct(a.shape, x.dtype) for a in (x, gamma, beta))
    operands = dy, x, mean, left, inv_std, gamma, beta
    options = {"centred": bool(centred), "fixed": bool(fixed), "relu": bool(relu)}
    return tuple(jax.ffi.ffi_call("funcnet_norm_gradient", results)(*operands, **options))
