"""The maps that rules are made of, and how their sums are taken.

Rules say mathematics; this module says how. Products and convolutions are bilinear, take operands
of one dtype, and return their sums in the dtype they were accumulated in (`wide_dtype`), as
normalisation and its gradient do: the caller adds what else there is to add and rounds once. A
faster implementation takes a map's place here and nowhere else.
"""

from funcnet._homes import at_home
from funcnet.kernels._conv import conv, conv_bias, conv_input_gradient, conv_kernel_gradient
from funcnet.kernels._conv_pool import (
    NO_CELL,
    TILE,
    conv_pool,
    conv_pool_kernel_gradient,
    of_winners,
)
from funcnet.kernels._conv_xla import Pads as Pads
from funcnet.kernels._entries import entries_of, with_entries
from funcnet.kernels._flops import flops
from funcnet.kernels._gelu import gelu, gelu_gradient, sigmoids
from funcnet.kernels._lowering import once, wide, wide_dtype
from funcnet.kernels._memory import keep_memory
from funcnet.kernels._native import native_status, use_native
from funcnet.kernels._norms import (
    normalise,
    normalise_gradient,
    per_channel,
    scale_and_shift,
    scaled,
)
from funcnet.kernels._pools import (
    Axis,
    cells_held,
    window_max,
    window_max_gradient,
    window_mean,
    window_mean_gradient,
)
from funcnet.kernels._products import matmul, matmul_bias, matmul_nt, matmul_tn
from funcnet.kernels._types import (
    as_cotangent,
    average,
    cut_as,
    devices_along,
    emptied,
    not_cut_as,
    reshape,
    total,
    whole,
)

__all__ = [
    "NO_CELL",
    "TILE",
    "Axis",
    "as_cotangent",
    "average",
    "cells_held",
    "conv",
    "conv_bias",
    "conv_input_gradient",
    "conv_kernel_gradient",
    "conv_pool",
    "conv_pool_kernel_gradient",
    "cut_as",
    "devices_along",
    "emptied",
    "entries_of",
    "flops",
    "gelu",
    "gelu_gradient",
    "keep_memory",
    "matmul",
    "matmul_bias",
    "matmul_nt",
    "matmul_tn",
    "native_status",
    "normalise",
    "normalise_gradient",
    "not_cut_as",
    "of_winners",
    "once",
    "per_channel",
    "reshape",
    "scale_and_shift",
    "scaled",
    "sigmoids",
    "total",
    "use_native",
    "whole",
    "wide",
    "wide_dtype",
    "window_max",
    "window_max_gradient",
    "window_mean",
    "window_mean_gradient",
    "with_entries",
]

at_home(globals())
