"""Replies as no model should write them, drawn from a number: damage to replies of every kind, code with effects."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

_CODE = """import os
import torch
import torch.nn as nn
import triton
import triton.language as tl

open({canary!r}, "w").write("ran")
os.system("touch " + {canary!r})


@triton.jit
def k(p_x, p_y, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_y + o, tl.load(p_x + o, mask=o < n) * 2.0, mask=o < n)


class Meta(type):
    def __new__(cls, *rest):
        open({canary!r}, "w").write("ran")
        return super().__new__(cls, *rest)


class ModelNew(nn.Module, metaclass=Meta):
    def forward(self, x, y=open({canary!r}, "w")):
        y = torch.empty_like(x)
        k[(triton.cdiv(x.numel(), 64),)](x, y, x.numel(), BLOCK=64)
        return y
"""


def seeds(canary: Path) -> Sequence[str]:
    """Replies to start from; their code, if it ever ran, would write `canary`."""
    code = _CODE.format(canary=str(canary))
    block = f"```python\n{code}```\n"
    return (
        f"Here you are:\n\n{block}\nThis is faster.",
        block + block,
        block.replace("ModelNew", "Model"),
        f"```python\n{code}",
        f"```cuda\n{code}```",
        f"~~~python\n{code}~~~",
        f"````python\n```\n{code}```\n````",
        code,
        "I cannot help with that.",
        "",
        "```python\n```",
        "```python\n" + "(" * 3000 + "\n```",
        "```python\n" + "-" * 20000 + "1\n```",
        "```python\n" + "".join(" " * depth + "if x:\n" for depth in range(150)) + "\n```",
        "```python\nx = " + "+".join(["1"] * 3000) + "\nclass ModelNew: ...\n```",
        "```python\nclass ModelNew: x = " + "9" * 9000 + "\n```",
        "```python\nclass ModelNew: x = f'{" * 3 + "}'\n```",
        "```python\n# coding: rot13\nclass ModelNew: ...\n```",
        "```python\nfrom x import *\n```",
        "```" * 2000,
        block.replace("\n", "\r\n"),
        block.replace("\n", "\u2028"),
        "\ufeff" + block,
        block.replace("2.0", "\ud800"),
        block.replace("2.0", "\x00"),
        "<think>" + block + "</think>" + block,
        "data: [DONE]\n\n" + block,
        "\x1b[2J\x1b]0;title\x07" + block,
        "[bold]not markup[/]" + block,
        "{{ 7 * 7 }} <script>alert(1)</script>" + block,
    )


def _cut(text: str, draw: random.Random) -> str:
    return text[: draw.randint(0, len(text))]


def _drop(text: str, draw: random.Random) -> str:
    start = draw.randint(0, len(text))
    return text[:start] + text[start + draw.randint(1, 80) :]


def _repeat(text: str, draw: random.Random) -> str:
    start = draw.randint(0, len(text))
    piece = text[start : start + draw.randint(1, 60)]
    return text[:start] + piece * draw.choice((2, 3, 50, 500)) + text[start:]


def _insert(text: str, draw: random.Random) -> str:
    start = draw.randint(0, len(text))
    return text[:start] + draw.choice(_PIECES) + text[start:]


def _swap(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    draw.shuffle(lines)
    return "\n".join(lines)


def _characters(text: str, draw: random.Random) -> str:
    letters = list(text)
    for _ in range(draw.randint(1, 12)):
        if letters:
            letters[draw.randrange(len(letters))] = chr(
                draw.choice((0, 9, 10, 13, 34, 39, 92, 96, draw.randint(0, 0x10FFFF)))
            )
    return "".join(letters)


_PIECES = (
    "```",
    "```python\n",
    "\n```\n",
    "````",
    "'''",
    '"""',
    "\\",
    "\n\t \n",
    "class ModelNew:\n    pass\n",
    "import os; os._exit(3)\n",
    "exit()\n",
    "\udcff",
    "\x00",
    "(" * 300,
    "lambda: " * 300,
    "not " * 5000,
    "x." * 5000,
    "[" * 150 + "]" * 150,
    "a" * 100_000,
    "\u202e",
    "0x" + "f" * 5000,
    "1e999999",
    "match x:\n case _:\n  pass\n",
    "async def f(): await g()\n",
    "%%time\n!ls\n",
)

_DAMAGE: Sequence[Callable[[str, random.Random], str]] = (_cut, _drop, _repeat, _insert, _swap, _characters)


def fuzzed(number: int, starts: Sequence[str]) -> str:
    """Reply number `number`: one of `starts`, whole or damaged up to four times. The first ones are the starts."""
    if number < len(starts):
        return starts[number]
    draw = random.Random(number)
    text = draw.choice(starts)
    for _ in range(draw.randint(0, 4)):
        text = draw.choice(_DAMAGE)(text, draw)
    return text[:400_000]


def fuzzed_body(number: int, starts: Sequence[str]) -> bytes:
    """The body of a response, damaged as bytes: the protocol around a fuzzed reply."""
    import json

    draw = random.Random(number)
    text = fuzzed(number, starts)
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": draw.choice((None, "stop", "length", 7))}
    body = bytearray(b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\ndata: [DONE]\n\n")
    for _ in range(draw.randint(0, 6)):
        place = draw.randrange(len(body))
        body[place : place + draw.choice((0, 1, 8))] = draw.choice(
            (b"", b"\xff\xfe", b"\n\n", b"data:", b"{", b'"', b"\0")
        )
        body = body or bytearray(b"\n")
    return bytes(body)
