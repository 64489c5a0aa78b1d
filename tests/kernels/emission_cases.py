"""Modules whose emitted kernels are run in the interpreter: op chains of each kind, sizes that fit no tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tilewright.kernels.conv.plan import ConvTiles
from tilewright.kernels.plan import TileLimits
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.steps import PlanOptions

SMALL = PlanOptions(limits=TileLimits(256, 64, 4, 2, 16), sm_count=4)
FEW_PROGRAMS = PlanOptions(limits=TileLimits(128, 32, 4, 2, 16), sm_count=64)
PLAIN = PlanOptions(MemoryFormat.CONTIGUOUS, TileLimits(256, 64, 4, 2, 16), sm_count=4)


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any], *children: nn.Module, **scalars: float) -> None:
        super().__init__()
        self.children_list = nn.ModuleList(children)
        self.function = function
        for name, value in scalars.items():
            setattr(self, name, value)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


Case = tuple[Callable[[], tuple[nn.Module, list[torch.Tensor]]], Sequence[Sequence[tuple[int, ...]]], PlanOptions]
CASES: dict[str, Case] = {}


def case(
    name: str,
    function: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
    others: Sequence[Sequence[tuple[int, ...]]] = (),
    options: PlanOptions = SMALL,
    children: Callable[[], Sequence[nn.Module]] = tuple,
    scale: float = 1.0,
    **scalars: float,
) -> None:
    def make() -> tuple[nn.Module, list[torch.Tensor]]:
        module = Function(function, *children(), **scalars)
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.running_mean.normal_()
                child.running_var.uniform_(0.5, 2.0)
                if child.affine:
                    nn.init.normal_(child.weight)
                    nn.init.normal_(child.bias)
        return module, [torch.randn(shape) * scale for shape in shapes]

    CASES[name] = (make, others, options)


def _transposed(**arguments: int) -> Callable[[], list[nn.Module]]:
    return lambda: [nn.ConvTranspose2d(3, 5, **arguments)]


# -- the five families, small ------------------------------------------------------------------------------
for label, options in (("last", SMALL), ("plain", PLAIN), ("few", FEW_PROGRAMS)):
    case(
        f"add-min-gelu-mul {label}",
        lambda m, x: F.gelu(torch.clamp(m.children_list[0](x) + m.add, max=0.0)) * m.mul,
        [(2, 3, 5, 7)],
        [[(1, 3, 9, 2)]],
        options,
        _transposed(kernel_size=4, stride=2),
        add=0.5,
        mul=2.0,
    )
    case(
        f"min-sum-gelu-bias {label}",
        lambda m, x: F.gelu(m.children_list[0](x).min(dim=1, keepdim=True)[0].sum(dim=2, keepdim=True)) + m.bias,
        [(2, 3, 5, 7)],
        [[(1, 3, 33, 2)]],
        options,
        _transposed(kernel_size=3, stride=2, padding=1, output_padding=1),
        bias=0.3,
    )
    case(
        f"mish-add-hardtanh-mul {label}",
        lambda m, x: F.hardtanh(F.mish(m.children_list[0](x)) + m.add, -1.0, 1.0) * 2,
        [(2, 3, 5, 7)],
        [[(3, 3, 4, 11)]],
        options,
        _transposed(kernel_size=3, stride=2, padding=1),
        4.0,
        add=0.5,
    )
    case(
        f"linear-bn-gelu-relu {label}",
        lambda m, x: torch.relu(F.gelu(m.children_list[1](m.children_list[0](x)))),
        [(5, 6)],
        [[(67, 6)]],
        options,
        lambda: [nn.Linear(6, 10), nn.BatchNorm1d(10)],
    )
    case(
        f"mul-mean-mean {label}",
        lambda m, x: (m.children_list[0](x) * m.mul).mean([2, 3], keepdim=True).mean([2, 3], keepdim=True),
        [(2, 3, 9, 7)],
        [[(1, 3, 17, 3)]],
        options,
        _transposed(kernel_size=3, stride=2),
        mul=0.5,
    )

# -- pointwise, every row of the table, on ordinary and extreme values ---------------------------------------
SPECIAL = [0.0, -0.0, 1e-30, -1e-30, 1e-6, -1e-6, 0.3, -0.3, 3.0, -3.0, 21.0, -21.0, 44.0, -44.0, 80.0, -80.0]
SPECIAL += [100.0, -100.0, 1e4, -1e4, 1e30, -1e30, float("inf"), float("-inf"), float("nan"), 0.5, -0.5, 2.0, -2.0]
UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softplus_b": lambda x: F.softplus(x, 2.0, 10.0),
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "elu": F.elu,
    "elu_a": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.3),
    "relu6": F.relu6,
    "clamp": lambda x: x.clamp(-1.0, 2.0),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "abs": torch.abs,
    "neg": torch.neg,
    "pow2": lambda x: x**2,
    "pow3": lambda x: x**3,
    "pow_half": lambda x: x**0.5,
    "pow_other": lambda x: x**1.7,
    "pow_neg": lambda x: x**-1,
    "reciprocal": torch.reciprocal,
    "div": lambda x: x / 3.0,
    "rdiv": lambda x: 3.0 / x,
    "rsub": lambda x: 1.5 - x,
    "where": lambda x: torch.where(x > 0.1, x, x * 0.5),
    "compare": lambda x: (x >= 0.3).float() * x,
    "erf": torch.erf,
    "floor": torch.floor,
    "square": torch.square,
    "log_sigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "hardshrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -3.0),
    "tanhshrink": F.tanhshrink,
    "softshrink": F.softshrink,
}


def _special_case(function: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    def make() -> tuple[nn.Module, list[torch.Tensor]]:
        return Function(lambda m, x: function(x)), [torch.tensor(SPECIAL).repeat(3)]

    return make, [[(300,)]], SMALL


for unary_name, unary in UNARY.items():
    CASES[f"pointwise {unary_name}"] = _special_case(unary)

APPROXIMATE = replace(SMALL, approximate=True)
for unary_name in ("gelu", "mish", "sigmoid", "silu", "log_sigmoid", "gelu_tanh", "exp", "elu", "tanh"):
    CASES[f"approximate {unary_name}"] = (*_special_case(UNARY[unary_name])[:2], APPROXIMATE)

case("broadcast channel", lambda m, x, b: torch.relu(x + b), [(2, 3, 4, 5), (3, 1, 1)], [[(1, 3, 6, 7), (3, 1, 1)]])
case("broadcast row", lambda m, x, b: x * b, [(7, 9), (9,)], [[(130, 9), (9,)]])
case("broadcast column", lambda m, x, b: torch.sigmoid(x) * b, [(7, 9), (7, 1)], [[(70, 3), (70, 1)]])
case("residual", lambda m, x, y: F.silu(x) + y * 0.5, [(2, 3, 4, 5), (2, 3, 4, 5)], [[(1, 7, 2, 2), (1, 7, 2, 2)]])
case("transposed operand", lambda m, x, y: x + y.transpose(0, 1), [(7, 9), (9, 7)], [[(33, 70), (70, 33)]])
case("outer product", lambda m, x, y: torch.tanh(x[:, None] * y[None, :]), [(7,), (9,)], [[(40,), (50,)]])

# -- reductions --------------------------------------------------------------------------------------------
for dims in ((0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)):
    for reduction in ("sum", "mean", "amin", "amax"):
        for keep in (False, True):
            if keep and (reduction in ("amin", "mean") or len(dims) == 2):
                continue
            case(
                f"{reduction} over {dims} keep {keep}",
                lambda m, x, r=reduction, d=dims, k=keep: getattr(torch, r)(torch.sin(x), dim=d, keepdim=k) * 2.0,
                [(5, 6, 7)],
                [[(2, 67, 9)]],
                SMALL if keep else FEW_PROGRAMS,
            )
case("sum of all", lambda m, x: x.sum(), [(5, 67)], [[(3, 200)]], FEW_PROGRAMS)
case("mean of row sums", lambda m, x, t: torch.where(t > 0, x.sum(1), 0.0).mean(), [(5, 67), (5,)], [[(3, 9), (3,)]])
case("max of all", lambda m, x: x.max(), [(5, 67)], [[(3, 200)]], SMALL)
case("two at one level", lambda m, x: x.sum(1) / (x.abs().amax(1) + 1.0), [(5, 67)], [[(9, 3)]])
case("variance by hand", lambda m, x: (x * x).mean(1) - x.mean(1) ** 2, [(5, 67)], [[(9, 3)]], FEW_PROGRAMS)
case(
    "three levels",
    lambda m, x: torch.tanh(x.amax(3)).sum(2).exp().mean(1),
    [(3, 4, 5, 6)],
    [[(2, 3, 40, 9)]],
    scale=0.1,
)
case("centred", lambda m, x: x - x.mean(1, keepdim=True), [(5, 67)], [[(9, 3)]])
case("softmax by hand", lambda m, x: torch.exp(x - x.amax(1, keepdim=True)) / 3.0, [(5, 67)], [[(9, 3)]])
case(
    "reduction then broadcast operand",
    lambda m, x, b: x.sum(1, keepdim=True) * b,
    [(4, 9, 5), (1, 1, 5)],
    [[(2, 3, 5), (1, 1, 5)]],
)
for diagonal in (0, 1, -2):
    case(f"tril by {diagonal}", lambda m, x, d=diagonal: torch.tril(torch.exp(x), d) * 2.0, [(7, 9)], [[(33, 70)]])
    case(f"triu by {diagonal}", lambda m, x, d=diagonal: torch.triu(x + 1.0, d).exp(), [(3, 5, 6)], [[(2, 9, 3)]])
case("triangle of all rows", lambda m, x: x.tril().sum(1), [(5, 67)], [[(9, 3)]], FEW_PROGRAMS)
case("triangle of a product", lambda m, x, y: (x[:, None] * y).triu() + y, [(7,), (7,)], [[(40,), (40,)]])
case("triangle of one row", lambda m, x: torch.exp(x)[None].tril(1), [(40,)], [[(9,)]])
case("triangle of means", lambda m, x: torch.exp(x).mean(2).tril() + 1.0, [(5, 6, 67)], [[(9, 3, 4)]], FEW_PROGRAMS)
case("turned triangle", lambda m, x, y: y + x.exp().tril().t(), [(7, 9), (9, 7)], [[(33, 70), (70, 33)]])
case("nan in min", lambda m, x: torch.where(x > 1.0, x * float("nan"), x).amin(1), [(5, 67)], [[(9, 3)]])

# -- modules around native operations ------------------------------------------------------------------------
case(
    "conv groupnorm hardswish max",
    lambda m, x: F.hardswish(m.children_list[1](m.children_list[0](x))).max(dim=1, keepdim=True)[0],
    [(2, 3, 8, 9)],
    [[(1, 3, 5, 5)]],
    SMALL,
    lambda: [nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8)],
)
case(
    "conv3d bn relu mean",
    lambda m, x: torch.relu(m.children_list[1](m.children_list[0](x))).mean([2, 3, 4]),
    [(2, 3, 5, 6, 7)],
    [[(1, 3, 4, 4, 9)]],
    SMALL,
    lambda: [nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)],
)
case(
    "inplace chain",
    lambda m, x: F.relu(m.children_list[0](x), inplace=True).add_(1.0).clamp_(0.0, 1.5),
    [(2, 3, 5, 7)],
    [[(1, 3, 5, 5)]],
    SMALL,
    lambda: [nn.Conv2d(3, 4, 3)],
)
case("two outputs", lambda m, x: (torch.relu(x), torch.sigmoid(x).sum(1)), [(5, 7)], [[(3, 40)]])
case("flattened", lambda m, x: torch.flatten(torch.relu(x), 1).mean(1), [(2, 3, 4, 5)], [[(3, 3, 2, 9)]])
case(
    "mlp layernorm",
    lambda m, x: m.children_list[2](F.gelu(m.children_list[1](m.children_list[0](x)))),
    [(5, 6)],
    [[(3, 6)]],
    SMALL,
    lambda: [nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)],
)

# -- convolution anchors: float16 operands, float32 accumulators ----------------------------------------------
ANCHOR = PlanOptions(
    limits=TileLimits(256, 64, 4, 2, 16),
    sm_count=4,
    convolution_anchors=True,
    convolution_tiles=ConvTiles(16, 16, 4, 2),
)
_CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "t2 k4 s2": (lambda: nn.ConvTranspose2d(3, 5, 4, 2), (2, 3, 5, 7), (1, 3, 17, 2)),
    "t2 k3 s2 p1 op1": (lambda: nn.ConvTranspose2d(3, 18, 3, 2, 1, 1), (2, 3, 5, 7), (1, 3, 3, 18)),
    "t2 k5 s3 p2": (lambda: nn.ConvTranspose2d(3, 5, 5, 3, 2), (2, 3, 5, 4), (1, 3, 6, 3)),
    "t2 k2 s4": (lambda: nn.ConvTranspose2d(3, 5, 2, 4), (2, 3, 5, 4), (1, 3, 6, 3)),
    "t2 k5 s4 op3": (lambda: nn.ConvTranspose2d(3, 5, 5, 4, 1, 3), (2, 3, 5, 4), (1, 3, 2, 3)),
    "t2 k3 s2 d2": (lambda: nn.ConvTranspose2d(3, 5, 3, 2, 1, 1, dilation=2), (2, 3, 5, 7), (1, 3, 6, 3)),
    "t2 k3 s1 p1": (lambda: nn.ConvTranspose2d(3, 5, 3, 1, 1), (2, 3, 5, 7), (1, 3, 6, 3)),
    "t2 groups": (lambda: nn.ConvTranspose2d(6, 10, 3, 2, 1, 1, groups=2), (2, 6, 5, 7), (1, 6, 6, 3)),
    "t2 wide": (lambda: nn.ConvTranspose2d(40, 70, 3, 2, 1, 1), (1, 40, 3, 5), (2, 40, 4, 9)),
    "t2 k3 s2 (2, 1)": (lambda: nn.ConvTranspose2d(3, 5, (3, 2), (2, 1), (1, 0)), (2, 3, 5, 7), (1, 3, 6, 3)),
    "t2 no bias p3": (lambda: nn.ConvTranspose2d(3, 5, 3, 2, 2, 1, bias=False), (2, 3, 5, 7), (1, 3, 6, 3)),
    "t1 k4 s2 p1": (lambda: nn.ConvTranspose1d(3, 5, 4, 2, 1), (2, 3, 37), (1, 3, 5)),
    "t3 k3 s2 p1 op1": (lambda: nn.ConvTranspose3d(3, 5, 3, 2, 1, 1), (1, 3, 3, 4, 5), (2, 3, 2, 3, 2)),
    "c2 k3": (lambda: nn.Conv2d(3, 5, 3), (2, 3, 8, 9), (1, 3, 5, 18)),
    "c2 k3 s2 p1": (lambda: nn.Conv2d(3, 5, 3, 2, 1), (2, 3, 8, 9), (1, 3, 5, 18)),
    "c2 k5 s3 p2 d2": (lambda: nn.Conv2d(3, 5, 5, 3, 2, 2), (2, 3, 14, 13), (1, 3, 9, 18)),
    "c2 k1": (lambda: nn.Conv2d(20, 5, 1), (2, 20, 8, 9), (1, 20, 5, 18)),
    "c2 groups": (lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2), (2, 6, 8, 9), (1, 6, 5, 18)),
    "c2 three groups": (lambda: nn.Conv2d(9, 6, 3, padding=1, groups=3), (2, 9, 8, 9), (1, 9, 5, 18)),
    "c1 k5 d2": (lambda: nn.Conv1d(3, 5, 5, dilation=2), (2, 3, 40), (1, 3, 11)),
    "c3 k3 s2 p1": (lambda: nn.Conv3d(3, 5, 3, 2, 1), (1, 3, 4, 5, 6), (2, 3, 3, 3, 9)),
}
for anchor_name, (make_anchor, anchor_shape, other_shape) in _CONVOLUTIONS.items():
    case(
        f"anchor {anchor_name} pointwise",
        lambda m, x: F.leaky_relu(m.children_list[0](x) + m.add, 0.2) * 1.5,
        [anchor_shape],
        [[other_shape]],
        ANCHOR,
        lambda make=make_anchor: [make()],
        add=0.5,
    )
for anchor_name in (
    "t2 k4 s2",
    "t2 k3 s2 p1 op1",
    "t2 k5 s3 p2",
    "t2 groups",
    "t2 wide",
    "c2 k3 s2 p1",
    "t1 k4 s2 p1",
    "c3 k3 s2 p1",
):
    make_anchor, anchor_shape, other_shape = _CONVOLUTIONS[anchor_name]
    for reduction in ("amin", "sum", "mean"):
        case(
            f"anchor {anchor_name} {reduction} over channels",
            lambda m, x, r=reduction: torch.tanh(getattr(torch, r)(m.children_list[0](x), dim=1, keepdim=True)) * 2.0,
            [anchor_shape],
            [[other_shape]],
            ANCHOR,
            lambda make=make_anchor: [make()],
        )
case(
    "anchor min-sum-gelu-bias",
    lambda m, x: F.gelu(m.children_list[0](x).min(dim=1, keepdim=True)[0].sum(dim=2, keepdim=True)) + m.bias,
    [(2, 3, 5, 7)],
    [[(1, 3, 33, 2)]],
    ANCHOR,
    _transposed(kernel_size=3, stride=2, padding=1, output_padding=1),
    bias=0.3,
)
case(
    "anchor with residual and channel scale",
    lambda m, x, y, s: torch.relu(m.children_list[0](x)) * s + y,
    [(2, 3, 5, 7), (2, 5, 10, 14), (5, 1, 1)],
    [[(1, 3, 4, 4), (1, 5, 8, 8), (5, 1, 1)]],
    ANCHOR,
    _transposed(kernel_size=3, stride=2, padding=1, output_padding=1),
)
case(
    "anchor after a native convolution",  # row-major: both as its input and as its residual
    lambda m, x: torch.relu(m.children_list[1](y := m.children_list[0](x))) + y,
    [(2, 3, 5, 7)],
    [[(1, 3, 9, 4)]],
    ANCHOR,
    lambda: [nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Conv2d(5, 5, 3, padding=1)],
)
case(
    "anchor twice",
    lambda m, x: torch.sigmoid(m.children_list[1](torch.relu(m.children_list[0](x)))),
    [(2, 3, 5, 7)],
    [[(1, 3, 4, 4)]],
    ANCHOR,
    lambda: [nn.Conv2d(3, 20, 3, padding=1), nn.ConvTranspose2d(20, 4, 2, 2)],
)

case(
    "anchor beside a native convolution",
    lambda m, x: torch.relu(m.children_list[0](x)) + m.children_list[1](x) * 2.0,
    [(2, 3, 8, 9)],
    [[(1, 3, 5, 18)]],
    ANCHOR,
    lambda: [nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 13, padding=6)],
)

#: Strips of rows that keep their weights.
ROWS = replace(ANCHOR, convolution_tiles=ConvTiles(16, 16, 4, 1, rows=3))
for anchor_name in (
    "t2 k4 s2",
    "t2 k3 s2 p1 op1",
    "t2 k5 s3 p2",
    "t2 k3 s2 d2",
    "t2 groups",
    "t2 no bias p3",
    "c2 k3 s2 p1",
    "c2 k5 s3 p2 d2",
    "c2 k3",
    "c2 groups",
):
    make_anchor, anchor_shape, other_shape = _CONVOLUTIONS[anchor_name]
    for what, follow in {
        "pointwise": lambda value: F.leaky_relu(value, 0.2) * 1.5,
        "amin over channels": lambda value: torch.tanh(value.amin(1, keepdim=True)),
        "mean over space": lambda value: torch.sigmoid(torch.tanh(value).mean((2, 3))),
        "amax over rows": lambda value: torch.relu(value).amax(2, keepdim=True) * 2.0,
        "min over channels, sum over rows": lambda value: F.gelu(value.amin(1, keepdim=True).sum(2, keepdim=True)),
        "mean over channels, max over space": lambda value: value.mean(1).amax((1, 2)) + 1.0,
    }.items():
        case(
            f"anchor rows {anchor_name} {what}",
            lambda m, x, follow=follow: follow(m.children_list[0](x)),
            [anchor_shape],
            [[other_shape]],
            ROWS,
            lambda make=make_anchor: [make()],
        )

for anchor_name in ("t2 k4 s2", "t2 k3 s2 p1 op1", "t2 groups", "c2 k3 s2 p1", "t1 k4 s2 p1", "c3 k3 s2 p1", "t2 wide"):
    make_anchor, anchor_shape, other_shape = _CONVOLUTIONS[anchor_name]
    for what, follow in {
        "mean over space": lambda value: torch.sigmoid(F.leaky_relu(value, 0.2).mean(list(range(2, value.dim())))),
        "max over space": lambda value: torch.relu(value).amax(list(range(2, value.dim())), keepdim=True) * 2.0,
        "min over channels, sum over space": lambda value: torch.tanh(
            value.amin(1).sum(list(range(1, value.dim() - 1)), keepdim=True) * 0.01
        ),
    }.items():
        case(
            f"anchor {anchor_name} {what}",
            lambda m, x, follow=follow: follow(m.children_list[0](x)),
            [anchor_shape],
            [[other_shape]],
            ANCHOR,
            lambda make=make_anchor: [make()],
        )

#: Anchors are dear to interpret; every test run takes these, `python tests/kernels/interpreted.py` takes all.
_SAMPLE = {
    "anchor after a native convolution",
    "anchor t2 k5 s3 p2 pointwise",
    "anchor t2 groups pointwise",
    "anchor c3 k3 s2 p1 pointwise",
    "anchor t2 k3 s2 p1 op1 amin over channels",
    "anchor with residual and channel scale",
    "anchor min-sum-gelu-bias",
    "anchor twice",
    "anchor beside a native convolution",
    "anchor c3 k3 s2 p1 min over channels, sum over space",
    "anchor rows t2 k3 s2 p1 op1 min over channels, sum over rows",
    "anchor rows t2 groups amax over rows",
}
SAMPLE = [name for name in CASES if not name.startswith("anchor") or name in _SAMPLE]
