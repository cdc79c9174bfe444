"""Triton kernels behind `fused.py`: one read of each activation for norm, neuron and records.

Both kernels walk a matrix (rows, columns) in tiles. Channels-last activations (N, C, H, W) are the matrix
(N*H*W, C), whose columns are the channels; contiguous ones are (N*C, H*W), whose rows are.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024
"""Elements of a tile; 8 a thread, so that a bfloat16 load is 16 bytes wide."""

_MOMENT_PROGRAMS = 1024
"""Most partial sums a channel: about 8 a multiprocessor of an H100."""


@triton.jit
def _map(affine_ptr, channel, known, channels, AFFINE: tl.constexpr, WIDE: tl.constexpr):
    """Load center, scale and shift of the tile's channels."""
    if AFFINE:
        center = tl.load(affine_ptr + channel, known, other=0.0)
        scale = tl.load(affine_ptr + channels + channel, known, other=0.0)
        shift = tl.load(affine_ptr + 2 * channels + channel, known, other=0.0)
    else:
        center, scale, shift = tl.zeros((1, 1), WIDE), tl.zeros((1, 1), WIDE), tl.zeros((1, 1), WIDE)
    return center, scale, shift


@triton.jit
def _term(ptr, offset, inside, center, scale, shift, AFFINE: tl.constexpr, WIDE: tl.constexpr):
    """Load a term's values; return them as they are, and mapped."""
    values = tl.load(ptr + offset, inside, other=0.0).to(WIDE)
    mapped = values
    if AFFINE:
        mapped = (values - center) * scale + shift
    return values, mapped


@triton.jit
def _timestep(
    membrane, sensitivity, decay_sensitivity, current, threshold, decay, steepness,
    RESET: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Charge, fire, reset; return spike, membrane, slope and both next sensitivities (see equations.py)."""
    u = decay * membrane + current
    spike = (u >= threshold).to(WIDE)
    q = 1 / (1 + tl.exp(-steepness * (u / threshold - 1)))
    h = (steepness / threshold) * q * (1 - q)
    if RESET == 2:
        after = u * (1 - spike)
        kept = 1 - spike - u * h
    elif RESET == 0:
        after = u - threshold * spike
        kept = 1 - threshold * h
    else:
        after = u - threshold * spike
        kept = tl.zeros_like(h) + 1
    return spike, after, h, 1 + decay * sensitivity * kept, after + decay * decay_sensitivity * kept


@triton.jit
def _place(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A program's rows (ROWS,) and columns (COLUMNS,), which of them there are, and their places, in 64 bits."""
    across = tl.cdiv(columns, COLUMNS)
    row = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return row, column, inside, row[:, None] * columns + column[None, :]


@triton.jit
def _drive_kernel(
    x_ptr, x_affine_ptr, y_ptr, y_affine_ptr, threshold_ptr, decay_ptr,
    emitted_ptr, value_ptr, slope_ptr, of_decay_ptr, x_mean_ptr, y_mean_ptr,
    rows, columns, channels, count, decay, v_init, steepness,
    X_AFFINE: tl.constexpr, X_STATIC: tl.constexpr, HAS_Y: tl.constexpr, Y_AFFINE: tl.constexpr,
    Y_STATIC: tl.constexpr, CHANNELS_LAST: tl.constexpr, RESET: tl.constexpr, OWN_DECAY: tl.constexpr,
    T: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """See `fused.observe_drive`; RESET is 0 soft, 1 soft-detached, 2 hard."""
    row, column, inside, offset = _place(rows, columns, ROWS, COLUMNS)
    if CHANNELS_LAST:
        channel, known = column[None, :], (column < columns)[None, :]
    else:
        channel, known = (row % channels)[:, None], (row < rows)[:, None]
    x_center, x_scale, x_shift = _map(x_affine_ptr, channel, known, channels, X_AFFINE, WIDE)
    y_center, y_scale, y_shift = _map(y_affine_ptr, channel, known, channels, Y_AFFINE, WIDE)
    threshold = tl.load(threshold_ptr).to(WIDE)
    if OWN_DECAY:
        decay = tl.load(decay_ptr).to(WIDE)
    zero = tl.zeros((ROWS, COLUMNS), WIDE)
    membrane, sensitivity, decay_sensitivity = zero + v_init * threshold, zero + 1, zero + v_init * threshold
    rate, gain, decay_gain, x_sum, y_sum, current = zero, zero, zero, zero, zero, zero
    now = offset  # 64 bits wide, as a product of the 32-bit count and a timestep is not
    for t in tl.static_range(T):
        if not X_STATIC or t == 0:
            x_values, x = _term(x_ptr, now, inside, x_center, x_scale, x_shift, X_AFFINE, WIDE)
            x_sum += x_values
        current = x
        if HAS_Y:
            if not Y_STATIC or t == 0:
                y_values, y = _term(y_ptr, now, inside, y_center, y_scale, y_shift, Y_AFFINE, WIDE)
                y_sum += y_values
            current = x + y
        sensitivity_now, decay_sensitivity_now = sensitivity, decay_sensitivity
        spike, membrane, h, sensitivity, decay_sensitivity = _timestep(
            membrane, sensitivity, decay_sensitivity, current, threshold, decay, steepness, RESET, WIDE
        )
        rate, gain = rate + spike, gain + sensitivity_now * h
        decay_gain += decay_sensitivity_now * h  # dead code where it is not stored
        tl.store(emitted_ptr + now, threshold * spike, inside)
        now += count
    tl.store(value_ptr + offset, rate * (threshold / T), inside)
    tl.store(slope_ptr + offset, gain * (threshold / T), inside)
    if OWN_DECAY:
        tl.store(of_decay_ptr + offset, decay_gain * (threshold / T), inside)
    if X_AFFINE and not X_STATIC:  # a static input is its own mean
        tl.store(x_mean_ptr + offset, x_sum / T, inside)
    if Y_AFFINE and not Y_STATIC:
        tl.store(y_mean_ptr + offset, y_sum / T, inside)


@triton.jit
def _moments_kernel(
    x_ptr, sum_ptr, square_ptr, rows, columns, rows_each,
    WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum, over a program's rows, each column's distance from the first row, and the distance's square."""
    program = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    origin = tl.load(x_ptr + column, known, other=0.0).to(WIDE)[None, :]
    first = program.to(tl.int64) * rows_each
    last = tl.minimum(first + rows_each, rows)
    total = tl.zeros((ROWS, COLUMNS), WIDE)
    square = tl.zeros((ROWS, COLUMNS), WIDE)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & known[None, :]
        x = tl.load(x_ptr + row[:, None] * columns + column[None, :], inside, other=0.0).to(WIDE)
        distance = tl.where(inside, x - origin, 0.0)
        total += distance
        square += distance * distance
    tl.store(sum_ptr + program * columns + column, tl.sum(total, 0), known)
    tl.store(square_ptr + program * columns + column, tl.sum(square, 0), known)


@triton.jit
def _finish_kernel(
    x_ptr, sum_ptr, square_ptr, mean_ptr, var_ptr, rows, columns, programs,
    WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add the programs' sums; mean = origin + E[d], var = E[d^2] - E[d]^2."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    total = tl.zeros((ROWS, COLUMNS), WIDE)
    square = tl.zeros((ROWS, COLUMNS), WIDE)
    for start in range(0, programs, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < programs)[:, None] & known[None, :]
        offset = row[:, None] * columns + column[None, :]
        total += tl.load(sum_ptr + offset, inside, other=0.0)
        square += tl.load(square_ptr + offset, inside, other=0.0)
    origin = tl.load(x_ptr + column, known, other=0.0).to(WIDE)
    distance = tl.sum(total, 0) / rows
    variance = tl.sum(square, 0) / rows - distance * distance
    tl.store(mean_ptr + column, origin + distance, known)
    tl.store(var_ptr + column, tl.maximum(variance, 0.0), known)


_RESETS = {"soft": 0, "soft-detached": 1, "hard": 2}
_WIDE = {torch.float64: tl.float64}


def launch_drive(
    terms: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    threshold: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    *,
    timesteps: int,
    static: tuple[bool, bool],
    model: tuple[float, float, str, float],
    own_decay: Tensor | None,
    channels_last: bool,
) -> None:
    """Fill `outputs`, those of `fused.observe_drive` in order, from dense tensors of one memory layout.

    Args:
        terms: x, its affine map (3, C) or None, y or None, its affine map or None.
        threshold: scalar.
        outputs: allocated tensors; what is not recorded is empty.
        timesteps: T.
        static: whether x, and y, have B rows.
        model: decay, v_init, reset, steepness of the surrogate slope.
        own_decay: scalar that goes before the decay of `model`, or None.
        channels_last: whether channels are innermost in memory.
    """
    x, x_affine, y, y_affine = terms
    value = outputs[1]
    channels, rows, columns = _matrix(value, channels_last, per_channel=x_affine is not None or y_affine is not None)
    tile_columns = min(triton.next_power_of_2(columns), 128 if channels_last else _TILE)
    tile_rows = _TILE // tile_columns
    decay, v_init, reset, steepness = model
    grid = (triton.cdiv(rows, tile_rows) * triton.cdiv(columns, tile_columns),)
    _drive_kernel[grid](
        x, x_affine, y, y_affine, threshold, own_decay, *outputs,
        rows, columns, channels, value.numel(), decay, v_init, steepness,
        X_AFFINE=x_affine is not None, X_STATIC=static[0], HAS_Y=y is not None, Y_AFFINE=y_affine is not None,
        Y_STATIC=static[1], CHANNELS_LAST=channels_last, RESET=_RESETS[reset], OWN_DECAY=own_decay is not None,
        T=timesteps, WIDE=_WIDE.get(value.dtype, tl.float32), ROWS=tile_rows, COLUMNS=tile_columns,
    )  # fmt: skip


def launch_moments(x: Tensor, mean_C: Tensor, var_C: Tensor) -> None:
    """Fill mean and biased variance (C,) of a channels-last `x` (N, C, ...) over all but channels."""
    columns = x.shape[1]
    rows = x.numel() // columns
    tile_columns = min(triton.next_power_of_2(columns), 64)
    tile_rows = 2 * _TILE // tile_columns
    rows_each = tile_rows * triton.cdiv(triton.cdiv(rows, tile_rows), _MOMENT_PROGRAMS)
    programs = triton.cdiv(rows, rows_each)
    sums, squares = mean_C.new_empty(2, programs, columns)
    wide = _WIDE.get(x.dtype, tl.float32)
    sizes: dict[str, Any] = {"WIDE": wide, "COLUMNS": tile_columns}
    grid = (programs, triton.cdiv(columns, tile_columns))
    _moments_kernel[grid](x, sums, squares, rows, columns, rows_each, ROWS=tile_rows, **sizes)
    sizes["COLUMNS"] = 16
    _finish_kernel[(triton.cdiv(columns, 16),)](
        x, sums, squares, mean_C, var_C, rows, columns, programs, ROWS=256, **sizes
    )


def _matrix(like: Tensor, channels_last: bool, *, per_channel: bool) -> tuple[int, int, int]:
    """Return channels, rows and columns of the matrix that a tensor (B, ...) is."""
    if not per_channel and not channels_last:
        return 1, 1, like.numel()
    channels = like.shape[1]
    if channels_last:
        return channels, like.numel() // channels, channels
    columns = like[0, 0].numel()
    return channels, like.numel() // columns, columns
