"""Modules for `benchmarks.drop_in`: small ones of many kinds, and how a call or the module may differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# fmt: off
_HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"


@dataclass(frozen=True)
class Family:
    """One module as a Python file, and what may differ from its example.

    Attributes:
        name: of the family.
        source: the class `Model`, behind the usual imports.
        init: constructor arguments of the example.
        inputs: shapes of the example's tensors, or values of its other arguments.
        others: other constructor arguments that fit the same inputs.
        keywords: arguments by keyword that a call may add.
        attributes: path of an attribute -> other values of it.
        children: path of a child -> expressions of modules that may take its place.
        tolerance: of the relative error, by the precision of its products.
    """

    name: str
    source: str
    init: tuple[Any, ...]
    inputs: tuple[Any, ...]
    others: tuple[tuple[tuple[Any, ...], Mapping[str, Any]], ...] = ()
    keywords: tuple[Mapping[str, Any], ...] = ()
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    children: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tolerance: float = 1e-5

    @property
    def text(self) -> str:
        """The file."""
        return _HEAD + self.source


FAMILIES: tuple[Family, ...] = (
    Family(
        "options",
        """class Model(nn.Module):
    def __init__(self, d, act="gelu", scale=2.0, layers=2, residual=True, **options):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(layers)])
        self.act, self.scale, self.residual = act, scale, residual
        self.shift = options.get("shift", 0.25)

    def forward(self, x):
        for norm in self.norms:
            y = norm(x) * self.scale + self.shift
            y = F.gelu(y) if self.act == "gelu" else torch.tanh(y)
            x = x + y if self.residual else y
        return x
""",
        (24,),
        ((3, 24),),
        others=(
            ((24, "tanh"), {}),
            ((24,), {"layers": 3}),
            ((24,), {"residual": False}),
            ((24,), {"shift": 1.5}),
            ((24, "gelu", 0.0), {}),
            ((24, "gelu", 3), {}),
        ),
        attributes={"act": ("tanh",), "scale": (0.5, 3, 0.0, True), "residual": (False, 0), "shift": (2.0, -1)},
        children={
            "norms.0": (
                "nn.Identity()",
                "nn.LayerNorm(24, eps=0.5)",
                "nn.LayerNorm(24, elementwise_affine=False)",
                "nn.Softmax(-1)",
            ),
            "norms": ("nn.ModuleList([nn.LayerNorm(24)])",),
        },
    ),
    Family(
        "condition",
        """class Model(nn.Module):
    def __init__(self, d, e):
        super().__init__()
        self.a, self.b, self.n = nn.Linear(d, d), nn.Linear(e, d), nn.LayerNorm(d)

    def forward(self, x, t):
        return F.silu(self.a(x)) * torch.sigmoid(self.b(t)) + self.n(x)
""",
        (16, 8),
        ((4, 16), (4, 8)),
        others=(((16, 8), {}),),
        children={"a": ("nn.Linear(16, 16, bias=False)", "nn.Identity()"), "n": ("nn.LayerNorm(16, eps=1.0)",)},
        tolerance=2e-3,
    ),
    Family(
        "residual_2d",
        """class Model(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x, skip, mask=None):
        y = F.leaky_relu(x + skip, self.slope)
        return y if mask is None else y * mask
""",
        (0.2,),
        ((2, 5, 4, 6), (2, 5, 4, 6)),
        others=(((0.7,), {}),),
        keywords=({"mask": None}, {"mask": (2, 5, 4, 6)}, {"mask": (2, 1, 1, 1)}),
        attributes={"slope": (0.0, 1.0, 0.9)},
    ),
    Family(
        "numbers",
        """class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.ln = nn.LayerNorm(d)

    def forward(self, x, gain, mask, steps, *rest, flag=False, **more):
        y = self.ln(x) * gain
        if mask is not None:
            y = y * mask
        for other in rest:
            y = y + other
        return (F.gelu(y) + steps, y) if flag else F.gelu(y) + steps
""",
        (20,),
        ((3, 20), 1.5, None, 3),
        keywords=({"flag": True}, {"flag": False}),
    ),
    Family(
        "attention_scores",
        """class Model(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, scores, keep):
        s = (scores * self.scale).masked_fill(~keep, float("-inf"))
        return torch.softmax(s, dim=-1)
""",
        (0.125,),
        ((2, 3, 5, 7), "bool (2, 3, 5, 7)"),
        attributes={"scale": (2.0, 1)},
    ),
    Family(
        "batch_norm",
        """class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.bn = nn.BatchNorm2d(c)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return torch.relu(self.drop(self.bn(x)))
""",
        (6,),
        ((2, 6, 5, 4),),
        attributes={"bn.eps": (0.5,), "bn.momentum": (0.9, None), "drop.p": (0.1,)},
        children={"bn": ("nn.Identity()", "nn.BatchNorm2d(6, affine=False)", "nn.InstanceNorm2d(6)")},
    ),
    Family(
        "instance",
        """class Model(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, 8)

    def forward(self, x):
        return F.instance_norm(self.norm(x) * 2.0) + x.mean((2, 3), keepdim=True)
""",
        (4,),
        ((2, 8, 5, 3),),
        others=(((2,), {}), ((8,), {})),
        attributes={"norm.num_groups": (2,), "norm.eps": (0.1,)},
    ),
    Family(
        "squeezed",
        """class Model(nn.Module):
    def forward(self, x):
        y = torch.relu(x) * 2.0 + 1.0
        if x.shape[0] == 1:
            y = y * 3.0
        return y.squeeze()
""",
        (),
        ((3, 4, 5),),
    ),
    Family(
        "linear_bn",
        """class Model(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.fc = nn.Linear(i, o)
        self.bn = nn.BatchNorm1d(o)

    def forward(self, x):
        return torch.relu(F.gelu(self.bn(self.fc(x))))
""",
        (32, 24),
        ((8, 32),),
        others=(((32, 40), {}),),
        attributes={"bn.eps": (0.5,)},
        children={"fc": ("nn.Linear(32, 24, bias=False)",), "bn": ("nn.Identity()",)},
        tolerance=2e-3,
    ),
    Family(
        "conv_act",
        """class Model(nn.Module):
    def __init__(self, cin, cout, k):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, k, padding=1)
        self.scale = 0.75

    def forward(self, x):
        return F.hardswish(self.conv(x) * self.scale)
""",
        (4, 8, 3),
        ((2, 4, 6, 7),),
        others=(((4, 16, 3), {}),),
        attributes={"scale": (3.0, 2), "conv.stride": ((2, 2),), "conv.padding": ((0, 0),)},
        children={
            "conv": (
                "nn.Conv2d(4, 8, 3, padding=1, bias=False)",
                "nn.Conv2d(4, 8, 3, padding=1, stride=2)",
                "nn.Conv2d(4, 8, 1)",
            )
        },
        tolerance=2e-3,
    ),
    Family(
        "transposed_min",
        """class Model(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.up = nn.ConvTranspose2d(cin, cout, 3, stride=2, padding=1, output_padding=1)
        self.bias = nn.Parameter(torch.randn(1, 1, 1))

    def forward(self, x):
        y = torch.min(self.up(x), dim=1, keepdim=True)[0]
        return F.gelu(torch.sum(y, dim=2, keepdim=True)) + self.bias
""",
        (4, 6),
        ((2, 4, 5, 6),),
        tolerance=1e-2,
    ),
    Family(
        "global_mean",
        """class Model(nn.Module):
    def __init__(self, cin, cout, multiplier):
        super().__init__()
        self.up = nn.ConvTranspose2d(cin, cout, 3, stride=2, padding=1, output_padding=1)
        self.multiplier = multiplier

    def forward(self, x):
        return torch.mean(self.up(x) * self.multiplier, dim=(2, 3), keepdim=True)
""",
        (4, 6, 0.5),
        ((2, 4, 5, 6),),
        others=(((4, 6, -2.0), {}),),
        attributes={"multiplier": (0.0, -1.5, 2)},
        tolerance=2e-3,
    ),
    Family(
        "rms_cat",
        """class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.w = nn.Parameter(torch.rand(d))
        self.register_buffer("offset", torch.rand(d))
        self.table = torch.rand(d)
        self.config = {"eps": 1e-5, "add": True}

    def forward(self, x):
        n = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["eps"]) * self.w
        n = n + self.offset * self.table if self.config["add"] else n
        return n, {"first": n[..., :2] * 2.0, "same": [x]}
""",
        (12,),
        ((3, 5, 12),),
        attributes={"config": ({"eps": 0.5, "add": True}, {"eps": 1e-5, "add": False})},
    ),
    Family(
        "twice",
        """class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = F.silu

    def forward(self, xs, pair):
        q, k = xs
        return self.act(q * k) + pair["bias"]
""",
        (),
        ("list (3, 8) (3, 8)", "dict bias (8,)"),
        attributes={"act": ("F.gelu", "torch.tanh")},
    ),
)
