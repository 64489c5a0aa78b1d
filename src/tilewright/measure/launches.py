"""What a recorded launch tells about its traffic: bytes behind its pointers, its tile, a product's shape."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

from tilewright.values.candidate import Launch, LaunchArgument

#: Tiles have at least this many elements; smaller constants are flags, counts or strides.
_SMALLEST_TILE = 8


def element_bytes(kind: str) -> int:
    """Bytes of an element behind a pointer of Triton's signature type (`*fp32`, `*i64`, `*fp8e4nv`, `*i1`)."""
    digits = re.search(r"\d+", kind)
    return max(1, int(digits.group()) // 8) if digits else 4


def argument_bytes(argument: LaunchArgument) -> int:
    """Bytes of the tensor behind a pointer: elements of a dim with stride 0 are stored once."""
    if not argument.type.startswith("*"):
        return 0
    stored = (size for size, step in zip(argument.shape, argument.stride, strict=True) if step != 0 or size == 0)
    return math.prod(stored) * element_bytes(argument.type)


def tensor_bytes(launch: Launch) -> int:
    """Bytes of all tensors of a launch, once each."""
    return sum(argument_bytes(argument) for argument in launch.arguments)


def tile_sizes(launch: Launch) -> tuple[int, ...]:
    """Constexpr arguments that can be tile sizes: powers of two of 8 and more."""
    values = (argument.value for argument in launch.arguments if argument.type == "constexpr")
    return tuple(
        value
        for value in values
        if isinstance(value, int)
        and not isinstance(value, bool)
        and value >= _SMALLEST_TILE
        and value & (value - 1) == 0
    )


def tile_elements(launch: Launch) -> int:
    """Elements that a program works on at once: the product of its tile sizes, at least one a thread."""
    return max(32 * launch.num_warps, math.prod(tile_sizes(launch)))


@dataclass(frozen=True)
class ProductShape:
    """A matrix product [m, k] @ [k, n] and the tile that a program computes of it.

    Attributes:
        sizes: (m, n, k).
        tile: (rows, columns) of a program's tile.
        operand_bytes: bytes of an element of the operands.
    """

    sizes: tuple[int, int, int]
    tile: tuple[int, int]
    operand_bytes: int


def matrix_product_shape(launch: Launch) -> ProductShape | None:
    """The matrix product that a launch looks like, or None.

    It looks like one when three of its pointers have the shapes [m, k], [k, n] or [n, k], and [m, n], it
    has three tile sizes, and its programs are the tiles of [m, n]. (A first form: the recording holds no
    instructions. The instruction mix of the compiled kernel will say it for certain.)
    """
    matrices = [argument for argument in launch.arguments if len(argument.shape) == 2 and min(argument.shape) > 1]
    tiles = tile_sizes(launch)
    if len(matrices) < 3 or len(tiles) < 3:
        return None
    for left, right, result in itertools.permutations(matrices, 3):
        (m, k), (rows, columns) = left.shape, result.shape
        if rows != m or right.shape not in ((k, columns), (columns, k)):
            continue
        for tile_m, tile_n in itertools.permutations(tiles, 2):
            if launch.programs == -(-m // tile_m) * -(-columns // tile_n):
                return ProductShape((m, columns, k), (tile_m, tile_n), element_bytes(left.type))
    return None


def matrix_traffic(launch: Launch, product: ProductShape) -> float:
    """Bytes that the programs of a product ask L2 for: a row and a column of tiles each."""
    rows, columns = product.tile
    return float(launch.programs * (rows + columns) * product.sizes[2] * product.operand_bytes)
