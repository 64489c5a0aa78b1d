"""The precision class that a module runs in: what torch's own flags say of the products that it makes."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import torch
from torch import nn

from tilewright.errors import SourceError
from tilewright.task.python_source import parse_source
from tilewright.values.precision import PrecisionClass

_CONVOLUTION_WORDS = ("conv",)
_PRODUCT_WORDS = ("linear", "matmul", "mm", "einsum", "attention", "lstm", "gru", "rnn", "transformer", "bilinear")
_HALVES = {torch.float16: PrecisionClass.FP16, torch.bfloat16: PrecisionClass.BF16}
_HALF_WORDS = {"float16": PrecisionClass.FP16, "half": PrecisionClass.FP16, "bfloat16": PrecisionClass.BF16}


def module_precision(module: nn.Module) -> PrecisionClass:
    """The class of a live module: of its parameters' dtype where that is a half, else of torch's flags."""
    for parameter in module.parameters():
        if parameter.dtype in _HALVES:
            return _HALVES[parameter.dtype]
    names = {type(part).__name__.lower() for part in module.modules()}
    return _of_flags(_mentions(names, _CONVOLUTION_WORDS), _mentions(names, _PRODUCT_WORDS))


def source_precision(source: str) -> PrecisionClass:
    """The class of a module's source, read off the names in it; nothing is run."""
    try:
        tree = parse_source(source)
    except SourceError:
        return PrecisionClass.IEEE
    names = {node.attr.lower() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id.lower() for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for word, precision in _HALF_WORDS.items():
        if word in names:
            return precision
    products = any(isinstance(node, ast.MatMult) for node in ast.walk(tree))
    return _of_flags(_mentions(names, _CONVOLUTION_WORDS), products or _mentions(names, _PRODUCT_WORDS))


def strictest_class(precision: PrecisionClass, operations: Iterable[str]) -> list[str]:
    """What to tell of a module in ieee precision where torch permits more to some of its products; empty for others.

    Args:
        precision: the module's class.
        operations: its ATen operations.
    """
    names = {operation.split(".")[1].lower() for operation in operations if "." in operation}
    convolves = _mentions(names, _CONVOLUTION_WORDS)
    multiplies = _mentions(names, _PRODUCT_WORDS)
    if precision is not PrecisionClass.IEEE or not convolves:
        return []
    if _convolutions_in_tf32() and (_products_in_tf32() or not multiplies):
        return []  # ieee was asked for
    if _convolutions_in_tf32() != _products_in_tf32() and multiplies:
        one, other = "convolutions (torch.backends.cudnn)", "matrix products (torch.backends.cuda.matmul)"
        one, other = (one, other) if _convolutions_in_tf32() else (other, one)
        permits = f"TF32 is permitted for {one} and not for {other}, and the strictest decides"
    else:
        permits = "TF32 is not permitted for convolutions (torch.backends.cudnn)"
    return [
        f"the module's products run in ieee precision: {permits}. Convolutions stay with PyTorch then; "
        "--precision tf32 lets them become kernels"
    ]


def _mentions(names: set[str], words: tuple[str, ...]) -> bool:
    return any(word in name for name in names for word in words)


def _of_flags(convolutions: bool, products: bool) -> PrecisionClass:
    """tf32 where every kind of product that the module makes may run in it; the strictest decides."""
    allowed = []
    if convolutions:
        allowed.append(_convolutions_in_tf32())
    if products:
        allowed.append(_products_in_tf32())
    return PrecisionClass.TF32 if allowed and all(allowed) else PrecisionClass.IEEE


def _convolutions_in_tf32() -> bool:
    return _flag(torch.backends.cudnn)


def _products_in_tf32() -> bool:
    return _flag(torch.backends.cuda.matmul)


def _flag(backend: object) -> bool:
    """A backend's permission; torch raises where its older and its newer setting contradict each other."""
    try:
        return bool(getattr(backend, "allow_tf32"))  # noqa: B009
    except RuntimeError:
        return getattr(backend, "fp32_precision", "ieee") == "tf32"
