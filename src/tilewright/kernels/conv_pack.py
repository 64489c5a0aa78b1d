"""What a convolution anchor prepares: the input channels last with a zero border, and the weights by tap.

Operands of 16 bits keep their type. float32 becomes float16, and what that cannot hold is marked.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.kernels.conv_plan import ConvPlan
from tilewright.kernels.gemm_plan import Operands
from tilewright.kernels.text import Lines

#: Output channels of the largest tile: weights are padded so that no tile reaches beyond them.
_LARGEST_TILE = 256

LETTERS = {1: ("W",), 2: ("H", "W"), 3: ("D", "H", "W")}

#: float16 holds a value to TF32's accuracy from here ...
_SMALLEST = "0.0001220703125"  # 2**-13: half a unit in the last place of its subnormals is 2**-12 of this
#: ... up to here.
_LARGEST = "65504.0"
#: Their bit patterns as float32.
SMALLEST_BITS = "0x39000000"
LARGEST_BITS = "0x477FE000"

_PREPASS = '''
@triton.jit
def {name}_kernel(
    x_ptr, out_ptr, {unfit_ptr}N, C: tl.constexpr, {dims_constexpr}, {padded_constexpr},
    {borders_constexpr}, C_PADDED: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_BORDER: tl.constexpr,
):
    """x [N, C, {dims}]{conversion} [N, {padded}, C_PADDED], zeros before the data and past the last image.{marking}"""
    pid = tl.program_id(0)
    w = (pid % tl.cdiv(W, BLOCK_W)) * BLOCK_W + tl.arange(0, BLOCK_W)
    row = pid // tl.cdiv(W, BLOCK_W)
    rest = row
{decompose}
    inside = ({row_inside}) & (w < W)
    border = tl.arange(0, BLOCK_BORDER)
    image = x_ptr + n.to(tl.int64) * C * ({plane}) + {row_offset}
    start = out_ptr + row.to(tl.int64) * W_PADDED * C_PADDED
{nothing_seen}    for c_start in range(0, C_PADDED, BLOCK_C):
        c = c_start + tl.arange(0, BLOCK_C)
        x = tl.load(image + c[:, None] * ({plane}) + w[None, :], mask=(c < C)[:, None] & inside[None, :], other=0.0)
{see}        keep = (c < C_PADDED)[None, :]
        data = start + (W_BORDER + w)[:, None] * C_PADDED + c[None, :]
        tl.store(data, tl.trans(x{cast}), mask=keep & (w < W)[:, None])
        zeros = tl.zeros([BLOCK_BORDER, BLOCK_C], {type})
        first = (border < W_BORDER) & (pid % tl.cdiv(W, BLOCK_W) == 0)
        tl.store(start + border[:, None] * C_PADDED + c[None, :], zeros, mask=keep & first[:, None])
{mark}

def {name}(x, {border_arguments}, c_padded{unfit_argument}):
    """The input {as_type}channels last, a zero border before every row and plane{marks}."""
    N, C, {dims} = x.shape
{padded_lines}
    rows = N * {row_product} + {tail_rows}
    out = torch.empty((rows * W_PADDED, c_padded), device=x.device, dtype={dtype})
    BLOCK_C = min(64, triton.next_power_of_2(c_padded))  # three groups of 16 channels are 48
    BLOCK_W = max(16, min(64, triton.next_power_of_2(W)))
    warps = max(1, min(8, BLOCK_W * BLOCK_C // 128))
    {name}_kernel[(rows * triton.cdiv(W, BLOCK_W),)](
        x, out, {unfit}N, C, {dims}, {padded}, {border_names}, c_padded,
        BLOCK_W=BLOCK_W, BLOCK_C=BLOCK_C, BLOCK_BORDER=triton.next_power_of_2(max(1, w_border)), num_warps=warps,
    )
    return out
'''

#: Of the prepass that converts float32, and marks what float16 cannot hold ...
_CONVERTS = {
    "name": "to_half_with_border",
    "unfit_ptr": "unfit_ptr, ",
    "conversion": " float32 -> float16",
    "marking": """

    Marks images that float16 cannot hold to TF32's accuracy: a value too large, or a tile where all are tiny and
    not all are zero. Bit patterns of absolute values are compared: NaN is the largest.
    """,
    "nothing_seen": "    sizes = tl.zeros([BLOCK_C], tl.int32)\n",
    "see": "        sizes = tl.maximum(sizes, tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1))\n",
    "cast": ".to(tl.float16)",
    "type": "tl.float16",
    "mark": f"""    largest = tl.max(sizes)
    fits = (largest == 0) | ((largest >= {SMALLEST_BITS}) & (largest < {LARGEST_BITS}))
    tl.atomic_max(unfit_ptr + n, 1, mask=(fits == 0) & (n < N))
    tl.atomic_max(unfit_ptr + N, 1, mask=(fits == 0) & (n < N))
""",
    "unfit_argument": ", unfit",
    "as_type": "as float16, ",
    "marks": "; marks unfit images",
    "dtype": "torch.float16",
    "unfit": "unfit, ",
}
#: ... and of the one that only moves.
_MOVES = {
    **dict.fromkeys(_CONVERTS, ""),
    "name": "with_border",
    "conversion": " ->",
    "type": "x.dtype",
    "dtype": "x.dtype",
}

CHANNEL_BLOCK = '''
def channel_block(channels):
    """Channels in one step of a product; inputs and weights are padded to a multiple of it."""
    return 64 if channels > 32 else 32 if channels > 16 else 16
'''.strip("\n")


FEW_CHANNELS_BLOCK = '''
def few_channels_block(channels):
    """Channels that a pixel takes where the taps of a row are multiplied in one step."""
    return max(2, triton.next_power_of_2(channels))
'''.strip("\n")


def prepass_name(operands: Operands) -> str:
    """Its wrapper's name."""
    return (_CONVERTS if operands is Operands.HALF else _MOVES)["name"]


def prepass_source(rank: int, operands: Operands) -> tuple[str, str]:
    """The prepass for inputs of that many spatial dims: kernel, and wrapper."""
    letters = LETTERS[rank]
    outer = letters[:-1]
    decompose = []
    for letter in reversed(outer):
        decompose.append(f"    {letter.lower()} = rest % {letter}_PADDED - {letter}_BORDER")
        decompose.append(f"    rest = rest // {letter}_PADDED")
    decompose.append("    n = rest")
    rows = [f"({letter.lower()} >= 0) & ({letter.lower()} < {letter})" for letter in outer]
    offset = [f"{letter.lower()} * {' * '.join(letters[i + 1 :])}" for i, letter in enumerate(outer)]
    tail = ["1"] + [
        " * ".join([f"{letter.lower()}_border", *(f"{inner}_PADDED" for inner in outer[i + 1 :])])
        for i, letter in enumerate(outer)
    ]
    text = _PREPASS.format(
        dims=", ".join(letters),
        dims_constexpr=", ".join(f"{letter}: tl.constexpr" for letter in letters),
        padded_constexpr=", ".join(f"{letter}_PADDED: tl.constexpr" for letter in letters),
        borders_constexpr=", ".join(f"{letter}_BORDER: tl.constexpr" for letter in letters),
        padded=", ".join(f"{letter}_PADDED" for letter in letters),
        borders=", ".join(f"{letter}_BORDER" for letter in letters),
        decompose="\n".join(decompose),
        row_inside=" & ".join(["(n < N)", *rows]),
        plane=" * ".join(letters),
        row_offset=" + ".join(offset) or "0",
        border_arguments=", ".join(f"{letter.lower()}_border" for letter in letters),
        padded_lines="\n".join(f"    {letter}_PADDED = {letter} + {letter.lower()}_border" for letter in letters),
        row_product=" * ".join(f"{letter}_PADDED" for letter in outer) or "1",
        tail_rows=" + ".join(tail),
        border_names=", ".join(f"{letter.lower()}_border" for letter in letters),
        **(_CONVERTS if operands is Operands.HALF else _MOVES),
    ).strip("\n")
    kernel, wrapper = text.split("\n\n\n")
    return kernel, wrapper


def pack_source(plan: ConvPlan, deltas: Sequence[int]) -> str:
    """The function that packs the weights, [groups, taps, C, CO_PADDED (, columns)].

    As float16, and whether they fit; or in their own type, and how many output channels a group has.
    """
    lines = Lines()
    half = plan.operands is Operands.HALF
    lines.open(f"def pack_{plan.name}(weight):")
    if half:
        lines.add(
            '"""Weights as float16, a matrix [C, CO] for each tap, padded to the tiles; and 1 if they do not fit."""'
        )
    else:
        lines.add('"""Weights as a matrix [C, CO] for each tap, padded to the tiles; and CO."""')
    _add_matrices(lines, plan)
    if half:
        channels = ", ".join(str(axis) for axis in range(1, 2 + plan.shape.rank))
        lines.add(f"largest = w.abs().amax(({channels}))  # of each output channel")
        lines.add(f"fits = ((largest == 0) | ((largest >= {_SMALLEST}) & (largest < {_LARGEST}))).all()")
    lines.add("c, co = w.shape[-2:]")
    lines.add(f"tile = min({_LARGEST_TILE}, max(16, triton.next_power_of_2(co)))")
    if plan.joins_taps:
        _add_rows_of_taps(lines, plan)
    else:
        lines.add("w = F.pad(w, (0, -co % tile, 0, -c % channel_block(c)))")
    if plan.packs_columns:
        _add_joint_columns(lines, plan, deltas)
    if half:
        lines.add("return w.to(torch.float16).contiguous(), (~fits).to(torch.int32).reshape(1)")
    else:
        lines.add("return w.contiguous(), co")
    return str(lines)


def _add_matrices(lines: Lines, plan: ConvPlan) -> None:
    shape = plan.shape
    rank, groups = shape.rank, shape.groups
    dims = ", ".join(str(axis) for axis in range(3, 3 + rank))
    taps = ", ".join(str(dim.size) for dim in shape.dims)
    order = "1, 2" if shape.transposed else "2, 1"
    lines.add(f"w = weight.reshape({groups}, weight.shape[0] // {groups}, weight.shape[1], {taps})")
    lines.add(f"w = w.permute(0, {dims}, {order})  # [groups, taps, C, CO]")


def _add_rows_of_taps(lines: Lines, plan: ConvPlan) -> None:
    """Matrices [taps of a row * channels, CO], in the order in which a row's pixels lie in memory."""
    taps = [tap.index for tap in plan.shape.columns.phases[0]]
    if taps != sorted(taps):
        lines.add(f"w = w[..., {taps}, :, :]")
    lines.add("w = F.pad(w, (0, -co % tile, 0, few_channels_block(c) - c)).flatten(-3, -2)")
    lines.add("k = w.shape[-2]")
    lines.add("w = F.pad(w, (0, 0, 0, max(16, triton.next_power_of_2(k)) - k))")


def _add_joint_columns(lines: Lines, plan: ConvPlan, deltas: Sequence[int]) -> None:
    columns, rank = plan.shape.columns, plan.shape.rank
    order_of_taps = [
        next(tap.index for tap in columns.phases[column] if tap.delta == delta)
        for delta in deltas
        for column in range(columns.output_step)
    ]
    lines.add(f"w = w[..., {order_of_taps}, :, :].unflatten({rank}, ({len(deltas)}, {columns.output_step}))")
    lines.add(f"w = w.movedim({rank + 1}, -1)  # the phases of a column side by side")
