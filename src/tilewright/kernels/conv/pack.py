"""The prepass of a convolution anchor: the input channels last with a zero border.

Operands of 16 bits keep their type. float32 becomes float16, and what that cannot hold is marked.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.kernels.code.text import LETTERS, row_major
from tilewright.kernels.operands import Operands

#: float16 holds a value to TF32's accuracy from 2**-13 on (half a unit in the last place of its subnormals is 2**-12 of
#: this), and up to 65504: their bit patterns as float32.
SMALLEST_BITS = "0x39000000"
LARGEST_BITS = "0x477FE000"

_PREPASS = '''
@noted
@triton.jit
def {name}_kernel(
    x_ptr, out_ptr, {unfit_ptr}N, {call}C: tl.constexpr, {dims_constexpr}, {padded_constexpr},
    {borders_constexpr}, C_PADDED: tl.constexpr, CELLS: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_BORDER: tl.constexpr,
):
    """x [N, C, {dims}]{conversion} [N, {padded}, C_PADDED], zeros before the data and past the last image.

    A program moves a piece of a plane, and zeroes its share of the CELLS of the border.{marking}
    """
    pieces = tl.cdiv({plane}, BLOCK_P)
    n = tl.program_id(0) // pieces
    piece = tl.program_id(0) % pieces
    p = piece * BLOCK_P + tl.arange(0, BLOCK_P)
{decompose}
    data = ({data}) * C_PADDED
    image = x_ptr + n.to(tl.int64) * C * ({plane}) + p
    start = out_ptr + n.to(tl.int64) * ({padded_plane}) * C_PADDED
    inside = p < {plane}
    share = tl.cdiv(CELLS + TAIL, pieces)
    cell = piece * share + tl.arange(0, BLOCK_BORDER)
{border}
    border = tl.where(cell < CELLS, border, {padded_plane} + cell - CELLS) * C_PADDED
    last = tl.where(n == N - 1, CELLS + TAIL, CELLS)
    empty = (tl.arange(0, BLOCK_BORDER) < share) & (cell < last)
{nothing_seen}    for c_start in range(0, C_PADDED, BLOCK_C):
        c = c_start + tl.arange(0, BLOCK_C)
        x = tl.load(image[None, :] + c[:, None] * ({plane}), mask=(c < C)[:, None] & inside[None, :], other=0.0)
{see}        keep = (c < C_PADDED)[None, :]
        tl.store(start + data[:, None] + c[None, :], tl.trans(x{cast}), mask=inside[:, None] & keep)
        zeros = tl.zeros([BLOCK_BORDER, BLOCK_C], {type})
        tl.store(start + border[:, None] + c[None, :], zeros, mask=empty[:, None] & keep)
{mark}

def {name}(x, {border_arguments}, c_padded{unfit_argument}):
    """The input {as_type}channels last, a zero border before every row and plane{marks}."""
    N, C, {dims} = x.shape
{padded_lines}
    plane, padded, tail = {plane}, {padded_plane}, {tail}
    out = note(torch.empty((N * padded + tail, c_padded), device=x.device, dtype={dtype}))
    BLOCK_C = min({most_channels}, triton.next_power_of_2(c_padded))
    BLOCK_P = max(16, min({elements} // BLOCK_C, triton.next_power_of_2(plane)))
    pieces = triton.cdiv(plane, BLOCK_P)
    {name}_kernel[(N * pieces,)](
        x, out, {unfit}N, {call_number}C, {dims}, {padded}, {border_names}, c_padded, padded - plane, tail,
        BLOCK_P=BLOCK_P, BLOCK_C=BLOCK_C,
        BLOCK_BORDER=triton.next_power_of_2(max(1, triton.cdiv(padded - plane + tail, pieces))),
        num_warps=max(1, min(8, BLOCK_P * BLOCK_C // {elements_of_warp})),
    )
    return out
'''

#: Channels and elements of a tile of the prepass, at most, and elements of a warp.
_MOST_CHANNELS, _ELEMENTS, _ELEMENTS_OF_WARP = 256, 4096, 512

#: Of the prepass that converts float32, and marks what float16 cannot hold ...
_CONVERTS = {
    "name": "to_half_with_border",
    "unfit_ptr": "unfit_ptr, ",
    "conversion": " float32 -> float16",
    "marking": """

    Marks images that float16 cannot hold to TF32's accuracy: a value too large, or a tile where all are tiny and
    not all are zero. Bit patterns of absolute values are compared: NaN is the largest.""",
    "nothing_seen": "    sizes = tl.zeros([BLOCK_C], tl.int32)\n",
    "see": "        sizes = tl.maximum(sizes, tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1))\n",
    "cast": ".to(tl.float16)",
    "type": "tl.float16",
    "mark": f"""    largest = tl.max(sizes)
    fits = (largest == 0) | ((largest >= {SMALLEST_BITS}) & (largest < {LARGEST_BITS}))
    tl.atomic_max(unfit_ptr + 1 + n, CALL, mask=fits == 0)
    tl.atomic_max(unfit_ptr, CALL, mask=fits == 0)  # of all images
""",
    "call": "CALL, ",
    "unfit_argument": ", marks, call",
    "as_type": "as float16, ",
    "marks": "; marks unfit images",
    "dtype": "torch.float16",
    "unfit": "marks, ",
    "call_number": "call, ",
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


MARKS_OF_CALL = '''
_MARKS = {}


def marks_of_call(x, images, channels):
    """Marks of images and of output channels that float16 cannot hold, and the number of this call.

    Smaller marks are of earlier calls, so that nothing is cleared. Each stream has its own, since calls on two of them
    may overlap; a captured call, which is replayed under one number, clears its own. The first mark of the images is
    the largest of them.
    """
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.device.type == "cuda" else 0
    captured = stream != 0 and torch.cuda.is_current_stream_capturing()
    marks, of_channels, call = _MARKS.get((x.device, stream), (None, None, 0))
    if captured or marks is None or len(marks) <= max(images, channels) or call > 2**31 - 64:
        size = triton.next_power_of_2(max(images, channels) + 16)
        (marks, of_channels), call = torch.zeros((2, size), device=x.device, dtype=torch.int32), 0
    call += 16  # always a multiple of 16: Triton compiles one kernel for all
    if not captured:
        _MARKS[x.device, stream] = marks, of_channels, call
    return marks, of_channels, Number(call)
'''.strip("\n")


def prepass_name(operands: Operands) -> str:
    """Its wrapper's name."""
    return (_CONVERTS if operands is Operands.HALF else _MOVES)["name"]


def prepass_source(rank: int, operands: Operands) -> tuple[str, str]:
    """The prepass for inputs of that many spatial dims: kernel, and wrapper."""
    letters = LETTERS[rank]
    decompose, rest = [], "p"
    for letter in reversed(letters):
        index = rest if letter == letters[0] else f"{rest} % {letter}"
        decompose.append(f"    {letter.lower()} = {index}")
        rest = f"{rest} // {letter}"
    padded = [f"{letter}_PADDED" for letter in letters]
    text = _PREPASS.format(
        dims=", ".join(letters),
        dims_constexpr=", ".join(f"{letter}: tl.constexpr" for letter in letters),
        padded_constexpr=", ".join(f"{letter}_PADDED: tl.constexpr" for letter in letters),
        borders_constexpr=", ".join(f"{letter}_BORDER: tl.constexpr" for letter in letters),
        padded=", ".join(padded),
        borders=", ".join(f"{letter}_BORDER" for letter in letters),
        decompose="\n".join(decompose),
        plane=" * ".join(letters),
        padded_plane=" * ".join(padded),
        data=row_major([f"{letter.lower()} + {letter}_BORDER" for letter in letters], padded),
        border="\n".join(f"    {line}" for line in _border_lines(letters)),
        most_channels=_MOST_CHANNELS,
        elements=_ELEMENTS,
        elements_of_warp=_ELEMENTS_OF_WARP,
        border_arguments=", ".join(f"{letter.lower()}_border" for letter in letters),
        padded_lines="\n".join(f"    {letter}_PADDED = {letter} + {letter.lower()}_border" for letter in letters),
        tail=row_major([f"{letter.lower()}_border" for letter in letters], padded),
        border_names=", ".join(f"{letter.lower()}_border" for letter in letters),
        **(_CONVERTS if operands is Operands.HALF else _MOVES),
    ).strip("\n")
    kernel, wrapper = text.split("\n\n\n")
    return kernel, wrapper


def _border_lines(letters: Sequence[str]) -> list[str]:
    """`border`: the position of the border's cell number `cell` in a padded image.

    Dim by dim: what lies before the data fills whole slices; behind it each slice has a border of its own.
    """
    lines = ["border, rest = 0, cell"]
    for i, letter in enumerate(letters):
        inner = letters[i + 1 :]
        if not inner:
            lines.append("border += rest")
            break
        size = " * ".join(f"{name}_PADDED" for name in inner)
        cells = f"({size} - {' * '.join(inner)})"
        lines.append(f"before = {letter}_BORDER * {size}")
        lines.append("later = tl.maximum(rest - before, 0)")
        lines.append(f"slice = later // tl.maximum({cells}, 1)")
        lines.append(f"behind = ({letter}_BORDER + slice) * {size}")
        lines.append("border += tl.where(rest < before, rest, behind)")
        lines.append(f"rest = tl.where(rest < before, 0, later - slice * {cells})")
    return lines
