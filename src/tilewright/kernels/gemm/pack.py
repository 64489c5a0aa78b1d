"""What a GEMM anchor does first where it multiplies in float16: copies both operands, rows scaled by powers of two.

A row times a power of two that brings its largest element to [2**14, 2**15) fits float16, whatever its scale. What
lies 2**-29 or further below that element loses bits that TF32 keeps. Such elements are counted. An element's loss,
2**-39 of its row's largest element at most, is harmless where the other operand is dense: then the product of the
largest element with whatever meets it outweighs the loss. How dense an operand is says `spread`, the largest ratio
of elements in one of its rows. A row is unfit where count * spread exceeds 2**26, in either direction, and where
its scale would leave float32's range; unfit rows are computed in TF32 from the operands as given.
"""

from __future__ import annotations

#: Exponents of a row's largest element between which its scale, and a product with it, stay in float32's range.
_LOWEST, _HIGHEST = -60, 96

PREPASS_KERNEL = f'''
@noted
@triton.jit
def to_half_rows_kernel(
    x_ptr, half_ptr, scale_ptr, unfit_ptr, other_ptr, own_ptr, B1, R, C, C_PADDED, STRIDE_0, STRIDE_1, STRIDE_R,
    STRIDE_C, MARKS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ONE_BLOCK: tl.constexpr,
):
    """x [B0, B1, R, C] float32 -> float16 [B0 * B1 * R, C_PADDED], each row times a power of two; scale: the inverse.

    With MARKS, unfit rows are marked by what is known of the other operand: `other` holds its count of elements
    that lost bits, and its spread. Without, the same two figures of x are left in `own`.
    """
    row_blocks = tl.cdiv(R, BLOCK_R)
    matrix = (tl.program_id(0) // row_blocks).to(tl.int64)
    r = tl.program_id(0) % row_blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    r_in = r < R
    c = tl.arange(0, BLOCK_C)[None, :]
    source = x_ptr + (matrix // B1) * STRIDE_0 + (matrix % B1) * STRIDE_1 + r.to(tl.int64)[:, None] * STRIDE_R
    inside = r_in[:, None] & (c < C)
    x = tl.load(source + c.to(tl.int64) * STRIDE_C, mask=inside, other=0.0)
    size = tl.where(tl.abs(x) < 3.0e38, tl.abs(x), 3.0e38)  # NaN and infinity are too large
    largest, smallest = tl.max(size, 1), tl.min(tl.where(inside, size, float("inf")), 1)
    if not ONE_BLOCK:
        for start in range(BLOCK_C, C, BLOCK_C):
            inside = r_in[:, None] & (start + c < C)
            x = tl.load(source + (start + c).to(tl.int64) * STRIDE_C, mask=inside, other=0.0)
            size = tl.where(tl.abs(x) < 3.0e38, tl.abs(x), 3.0e38)
            largest = tl.maximum(largest, tl.max(size, 1))
            smallest = tl.minimum(smallest, tl.min(tl.where(inside, size, float("inf")), 1))
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) - 127
    in_range = (largest == 0.0) | ((exponent >= {_LOWEST}) & (exponent <= {_HIGHEST}))
    exponent = tl.where(in_range & (largest > 0.0), exponent, 14)
    factor = ((141 - exponent) << 23).to(tl.float32, bitcast=True)  # 2**(14 - exponent)
    lost = tl.zeros([BLOCK_R], tl.float32)
    row = matrix * R + r
    for start in range(0, C_PADDED, BLOCK_C):
        if not ONE_BLOCK:
            inside = r_in[:, None] & (start + c < C)
            x = tl.load(source + (start + c).to(tl.int64) * STRIDE_C, mask=inside, other=0.0)
        scaled = x * factor[:, None]
        half = scaled.to(tl.float16)
        loses = tl.abs(scaled - half.to(tl.float32)) > tl.abs(scaled) * 0.0009765625
        lost += tl.sum(loses.to(tl.float32), 1)
        keep = r_in[:, None] & (start + c < C_PADDED)
        tl.store(half_ptr + row[:, None] * C_PADDED + start + c, half, mask=keep)
    spread = tl.where(largest == 0.0, 1.0, largest / smallest)  # infinite where an element is 0
    tl.store(scale_ptr + row, ((exponent + 113) << 23).to(tl.float32, bitcast=True), mask=r_in)
    if MARKS:
        other_lost = tl.load(other_ptr) + tl.zeros([BLOCK_R], tl.float32)
        own_loss = tl.where(lost > 0.0, lost * tl.load(other_ptr + 1), 0.0)
        other_loss = tl.where(other_lost > 0.0, other_lost * spread, 0.0)
        fits = in_range & (own_loss <= 67108864.0) & (other_loss <= 67108864.0)
        tl.store(unfit_ptr + row, (fits == 0).to(tl.int32), mask=r_in)
    else:
        lost = tl.where(in_range, lost, float("inf"))
        tl.atomic_max(own_ptr, tl.max(tl.where(r_in, lost, 0.0)))
        tl.atomic_max(own_ptr + 1, tl.max(tl.where(r_in, spread, 0.0)))
'''.strip("\n")

PREPASS_WRAPPER = '''
def to_half_rows(x, block, other=None):
    """x [..., R, C] -> float16 [..., R, C padded to blocks], each row times a power of two, and the rows' scales.

    Given what is known of the other operand, the third result marks rows that float16 cannot hold; otherwise it is
    what is known of x: the largest count of elements that lost bits in a row, and the largest spread.
    """
    *batch, R, C = x.shape
    x4 = x if x.dim() <= 4 else x.flatten(0, -4)
    x4 = x4[(None,) * (4 - x4.dim())]
    C_PADDED = triton.cdiv(C, block) * block
    half = note(torch.empty((*batch, R, C_PADDED), device=x.device, dtype=torch.float16))
    scale = note(torch.empty((*batch, R), device=x.device, dtype=torch.float32))
    if other is None:
        unfit = own = other = note(torch.zeros(2, device=x.device, dtype=torch.float32), cleared=True)
    else:
        unfit = own = note(torch.empty((*batch, R), device=x.device, dtype=torch.int32))
    BLOCK_C = min(triton.next_power_of_2(C_PADDED), 4096 if x4.stride(3) == 1 else 64)
    BLOCK_R = 32 if x4.stride(3) != 1 else max(1, 2048 // BLOCK_C)
    to_half_rows_kernel[(x4.shape[0] * x4.shape[1] * triton.cdiv(R, BLOCK_R),)](
        x4, half, scale, unfit, other, own, x4.shape[1], R, C, C_PADDED, *x4.stride(),
        MARKS=unfit.dtype == torch.int32, BLOCK_R=BLOCK_R, BLOCK_C=BLOCK_C, ONE_BLOCK=BLOCK_C >= C_PADDED, num_warps=8,
    )
    return half, scale, unfit
'''.strip("\n")

SCRATCH_MEMORY = '''
def scratch_memory(size, alignment, stream):
    """Memory in which a kernel builds its tensor descriptors."""
    return torch.empty(size, device="cuda", dtype=torch.int8)
'''.strip("\n")
