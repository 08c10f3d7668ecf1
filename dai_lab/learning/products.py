"""The three matrix products of a linear layer, at the speed of the machine.

BLAS (scipy's OpenBLAS) is called by address, so that compiled code can call it without Python and
still be cached on disk. OpenBLAS copies its operands into panels first, which costs as much as the
product itself where a batch is small; where it knows vectors of 512 bits, products of at most
``UNPACKED`` multiply-adds it takes as they lie. There a product is cut into slices of that size:
measured on one core, 107 against 65 GFLOP/s at 32 x 784 x 200, where a large product reaches 97.
Elsewhere slices only cost: 24 against 18 GFLOP/s for the weights of 25 clients on a Zen 1.

Compiled functions carry ``no_type_check``: a checker wrapped around them is not theirs to compile.
"""

from __future__ import annotations

from functools import cache
from typing import Any, no_type_check

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic
from torch import Tensor

UNPACKED = 1_000_000
"""Multiply-adds up to which OpenBLAS works on operands where they lie."""

LYING = ("SkylakeX", "Cooperlake", "SapphireRapids")
"""OpenBLAS's names of the processors on which it does."""


def blas() -> tuple[int, int]:
    """Find the single-precision product, and keep it to the thread that calls it.

    From here on every BLAS of the process computes on one thread, until :func:`give_back`.

    Returns:
        The product's address, and the multiply-adds up to which it takes operands as they lie.
    """
    _limit()
    return _address(), UNPACKED if _lying() else 0


@cache
def _address() -> int:
    return int(get_cython_function_address("scipy.linalg.cython_blas", "sgemm"))


@cache
def _lying() -> bool:
    from threadpoolctl import threadpool_info

    return any(one.get("architecture") in LYING for one in threadpool_info())


@cache
def _limit() -> Any:
    import scipy.linalg.cython_blas  # noqa: F401 (loads the library, so that it is limited too)
    from threadpoolctl import threadpool_limits

    _take_over()
    return threadpool_limits(1, user_api="blas")


def give_back() -> None:
    """Give BLAS the threads it had before :func:`blas`, if that was called."""
    if _limit.cache_info().currsize:
        _take_over()
        _limit().restore_original_limits()
        _limit.cache_clear()


def _take_over() -> None:
    """Let this thread set what is the whole process's; threadpoolctl 3.8 heeds only the first."""
    from threadpoolctl import OpenBLASController

    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread(force=True)


@intrinsic
@no_type_check
def _product(
    typingctx: Any, address: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any,
    alpha: Any, a: Any, lda: Any, b: Any, ldb: Any, beta: Any, c: Any, ldc: Any,
) -> Any:  # fmt: skip
    """Column-major ``C[m, n] = alpha * op(A) op(B) + beta * C``; matrices by address."""
    whole, real = types.int64, types.float32
    signature = types.void(*[whole] * 6, real, *[whole] * 4, real, *[whole] * 2)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        byte, word, number = ir.IntType(8), ir.IntType(32), ir.FloatType()
        kinds = [byte, byte, word, word, word, number, None, word, None, word, number, None, word]
        values = []
        for kind, value in zip(kinds, args[1:], strict=True):
            if kind is None:
                values.append(builder.inttoptr(value, byte.as_pointer()))
                continue
            slot = cgutils.alloca_once(builder, kind)
            builder.store(value if kind is number else builder.trunc(value, kind), slot)
            values.append(builder.bitcast(slot, byte.as_pointer()))
        shape = ir.FunctionType(ir.VoidType(), [byte.as_pointer()] * 13)
        builder.call(builder.inttoptr(args[0], shape.as_pointer()), values)
        return context.get_dummy_value()

    return signature, code


N, T = ord("N"), ord("T")


@njit(cache=True, nogil=True)
@no_type_check
def _slice(whole, other, most):
    """Width of a slice so that it times ``other`` is taken unpacked; all where that is hopeless."""
    fits = most // other // 8 * 8
    return min(fits, whole) if fits >= 8 else whole


@njit(cache=True, nogil=True)
@no_type_check
def outputs(routine, x, w, z, batch, rows, cols, keep):
    """``z[batch, cols] = keep * z + x[batch, rows] w[cols, rows]^T``; all flat float32."""
    wide = _slice(cols, batch * rows, routine[1])
    for at in range(0, cols, wide):
        _product(
            routine[0], T, N, min(wide, cols - at), batch, rows, np.float32(1),
            w[at * rows :].ctypes.data, rows, x.ctypes.data, rows, keep, z[at:].ctypes.data, cols,
        )  # fmt: skip


@njit(cache=True, nogil=True)
@no_type_check
def to_inputs(routine, slope, w, below, batch, rows, cols):
    """``below[batch, rows] = slope[batch, cols] w[cols, rows]``."""
    wide = _slice(rows, batch * cols, routine[1])
    for at in range(0, rows, wide):
        _product(
            routine[0], N, N, min(wide, rows - at), batch, cols, np.float32(1), w[at:].ctypes.data,
            rows, slope.ctypes.data, cols, np.float32(0), below[at:].ctypes.data, rows,
        )  # fmt: skip


@njit(cache=True, nogil=True)
@no_type_check
def to_weights(routine, slope, x, g, batch, rows, cols, alpha, beta):
    """``g[cols, rows] = beta * g + alpha * slope[batch, cols]^T x[batch, rows]``."""
    wide = _slice(cols, batch * rows, routine[1])
    for at in range(0, cols, wide):
        _product(
            routine[0], N, T, rows, min(wide, cols - at), batch, alpha, x.ctypes.data, rows,
            slope[at:].ctypes.data, cols, beta, g[at * rows :].ctypes.data, rows,
        )  # fmt: skip


def _flat(matrix: Tensor) -> Any:
    return matrix.contiguous().numpy().reshape(-1)


def _packed(most: int, other: int) -> bool:
    """Tell of products that no slicing helps.

    OpenBLAS has been seen to take from 0.9 to 2.8 times as long as torch for these. But what torch
    gives depends on its threads, so a client's own rows are never torch's.
    """
    return most // max(other, 1) < 8


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, shared: bool = False) -> Tensor:
    """Return ``x weight^T + bias`` for ``x`` ``[B, in]`` and ``weight`` ``[out, in]`` on a CPU.

    Rows that are ``shared`` by several clients may depend on torch's threads.
    """
    batch, cols, rows = len(x), *weight.shape
    routine = blas()
    if shared and _packed(routine[1], batch * rows):
        return torch.nn.functional.linear(x, weight, bias)
    z = torch.empty((batch, cols)) if bias is None else bias.repeat(batch, 1)
    if not batch:
        return z
    keep = np.float32(bias is not None)
    outputs(routine, _flat(x), _flat(weight), z.numpy().reshape(-1), batch, rows, cols, keep)
    return z


def slope_of_inputs(slope: Tensor, weight: Tensor, *, shared: bool = False) -> Tensor:
    """Return ``slope weight`` for ``slope`` ``[B, out]``; ``shared`` as in :func:`linear`."""
    batch, cols, rows = len(slope), *weight.shape
    routine = blas()
    if not batch or (shared and _packed(routine[1], batch * cols)):
        return slope @ weight
    below = torch.empty((batch, rows))
    to_inputs(routine, _flat(slope), _flat(weight), below.numpy().reshape(-1), batch, rows, cols)
    return below


@njit(cache=True, nogil=True)
@no_type_check
def to_many_weights(routine, slope, x, g, apart, clients, batch, rows, cols, alpha, beta):
    """Do as ``to_weights`` for each of many clients; their ``g`` begin ``apart`` bytes apart.

    Slopes and inputs follow each other, client by client.
    """
    wide = _slice(cols, batch * rows, routine[1])
    for client in range(clients):
        first = client * batch
        for at in range(0, cols, wide):
            _product(
                routine[0], N, T, rows, min(wide, cols - at), batch, alpha,
                x[first * rows :].ctypes.data, rows, slope[first * cols + at :].ctypes.data, cols,
                beta, g + client * apart + 4 * at * rows, rows,
            )  # fmt: skip


def add_slopes_of_weights(
    into: Tensor, slope: Tensor, x: Tensor, *, alpha: float, beta: float
) -> None:
    """Set ``into = beta * into + alpha * slope^T x`` in place for each of many clients.

    ``into`` is ``[clients, out, in]``; each client's weights are contiguous, whatever lies between
    one client's and the next's.
    """
    clients, cols, rows = into.shape
    to_many_weights(
        blas(), _flat(slope), _flat(x), into.data_ptr(), 4 * into.stride(0), clients,
        len(x) // clients, rows, cols, np.float32(alpha), np.float32(beta),
    )  # fmt: skip
