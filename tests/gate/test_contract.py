"""Each rule of the contract, with code that keeps it and code that breaks it."""

from __future__ import annotations

import pytest

from tilewright.gate.checks.explain import UnknownCheckError, all_checks, explain
from tilewright.gate.contract.constants import integer_constants
from tilewright.gate.contract.rules import check_contract
from tilewright.task.stage import Stage, StageRules
from tilewright.task.task import OutputRules
from tilewright.values.verdict import Severity

GOOD = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0)
    tl.store(out_ptr + offsets, 2.0 * x, mask=mask)


def double(x):
    out = torch.empty_like(x)
    double_kernel[(triton.cdiv(x.numel(), 256),)](x, out, x.numel(), BLOCK=256)
    return out


class ModelNew(nn.Module):
    def forward(self, x):
        return double(x)
"""

#: Check -> edits of GOOD (old, new) that break its rule.
BROKEN = {
    "contract.parse": [("class ModelNew", "class Model"), ("def double(x):", "def double(x:")],
    "contract.order": [
        ("class ModelNew(nn.Module):\n    def forward(self, x):\n        return double(x)\n",
         "class ModelNew(nn.Module):\n    pass\n\n\ndef late(x):\n    return x\n"),
        ("import triton.language as tl\n", "import triton.language as tl\n\n\ndef helper():\n    pass\n"),
    ],
    "contract.imports": [("import torch\n", "import torch\nimport scipy\n")],
    "contract.forbidden": [
        ("2.0 * x", "tl.tanh(x)"),
        ("2.0 * x", "tl.math.tanh(x)"),
        ("@triton.jit", "squash = tl.sigmoid\n\n\n@triton.jit"),
        ("@triton.jit", 'squash = getattr(tl, "softmax")\n\n\n@triton.jit'),
        ("import triton.language as tl\n", "import triton.language as tl\nfrom triton.language import gelu\n"),
    ],
    "contract.unknown_name": [("2.0 * x", "tl.softsign(x)")],
    "contract.test_code": [
        ("class ModelNew", 'if __name__ == "__main__":\n    pass\n\n\nclass ModelNew'),
        ("class ModelNew", "def get_inputs():\n    return []\n\n\nclass ModelNew"),
        ("class ModelNew", "print(torch.ones(1))\n\n\nclass ModelNew"),
    ],
    "contract.jit": [("@triton.jit\n", "")],
    "contract.power_of_two": [
        ("tl.arange(0, BLOCK)", "tl.arange(0, 96)"),
        ("offsets = ", "acc = tl.zeros((24, 8), tl.float32)\n    offsets = "),
        ("@triton.jit", '@triton.autotune([triton.Config({"BLOCK": 100})], key=["n"])\n@triton.jit'),
    ],
    "contract.arange_runtime": [
        ("tl.arange(0, BLOCK)", "tl.arange(0, n)"),
        ("offsets = ", "m = n * 2\n    offsets = tl.arange(0, m) + "),
    ],
    "contract.grid": [
        ("[(triton.cdiv(x.numel(), 256),)]", "[(1, 2, 3, 4)]"),
        ("[(triton.cdiv(x.numel(), 256),)]", "[(0,)]"),
    ],
    "contract.axis": [("tl.program_id(0)", "tl.program_id(3)"), ("tl.program_id(0)", "tl.num_programs(axis=4)")],
    "contract.jump_in_loop": [
        ("    mask =", "    for i in range(3):\n        break\n    mask ="),
        ("    mask =", "    for i in range(3):\n        if i > 1:\n            continue\n    mask ="),
        ("    mask =", "    for i in range(3):\n        return\n    mask ="),
    ],
    "contract.tensor_index": [
        ("    mask =", "    y = offsets[:, None]\n    for i in range(3):\n        z = y[:, i]\n    mask ="),
        ("    mask =", "    for i in range(3):\n        z = offsets[i]\n    mask ="),
    ],
    "contract.mask_shape": [
        ("tl.load(x_ptr + offsets, mask=mask,", "tl.load(x_ptr + offsets, mask=mask[:, None],"),
        ("tl.store(out_ptr + offsets, 2.0 * x, mask=mask)",
         "tl.store(out_ptr + offsets[:, None] + offsets[None, :], 2.0 * x, mask=mask)"),
    ],
    "contract.one_store": [
        ("    tl.store(", "    tl.store(out_ptr + offsets, x, mask=mask)\n    tl.store("),
    ],
}  # fmt: skip

#: As the documents forbid them.
FORBIDDEN = ("tl.tanh", "tl.sigmoid", "tl.gelu", "tl.silu", "tl.softmax", "tl.mish")

CASES = [(check, old, new) for check, edits in BROKEN.items() for old, new in edits]


def findings(source: str, *stage_rules: StageRules, strict: bool = False) -> dict[str, str]:
    found = check_contract(source, OutputRules(forbidden_functions=FORBIDDEN, strict_stores=strict), stage_rules)
    return {finding.check: finding.message for finding in found}


def test_code_that_keeps_the_rules_has_no_finding() -> None:
    assert findings(GOOD) == {}


@pytest.mark.parametrize(("check", "old", "new"), CASES, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(CASES)])
def test_each_rule_finds_what_breaks_it(check: str, old: str, new: str) -> None:
    assert old in GOOD
    assert check in findings(GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("2.0 * x", "tl.sigmoid(x)", ""),
        ("2.0 * x", "tl.math.exp2(x)", ""),
        ("2.0 * x", "tl.extra.cuda.libdevice.tanh(x)", ""),
        ("import triton\n", "import triton\nfrom triton.language.extra import libdevice\n", ""),
        ("2.0 * x", "tl.tanh(x)", "tl.tanh"),
        ("2.0 * x", "tl.math.tanh(x)", "tl.math.tanh"),
        ("2.0 * x", 'getattr(tl, "tanh")(x)', "tl.tanh"),
        ("2.0 * x", "tl.extra.cuda.libdevice.tanhh(x)", "tl.extra.cuda.libdevice.tanhh"),
        ("import triton\n", "import triton\nfrom triton.language import tanh\n", "tl.tanh"),
    ],
)
def test_without_a_document_what_triton_has_may_be_used(old: str, new: str, missing: str) -> None:
    assert old in GOOD
    found = check_contract(GOOD.replace(old, new, 1), OutputRules())
    assert [finding.check for finding in found] == (["contract.unknown_name"] if missing else [])
    assert all(f"{missing} does not exist" in finding.message for finding in found)


@pytest.mark.parametrize("call", ["triton.jit(double)", "triton.jit(do_not_specialize=['n'])(double)"])
def test_a_kernel_may_be_made_by_a_call(call: str) -> None:
    head = GOOD.index("@triton.jit\n")
    name = GOOD[head:].split("def ", 1)[1].split("(", 1)[0]
    call = call.replace("double", name)
    assert "contract.jit" not in findings(GOOD.replace("@triton.jit\n", "", 1) + f"\n\nmade = {call}\n")


def test_a_load_within_a_store_comes_before_it() -> None:
    assert "contract.store_then_load" not in findings(
        GOOD.replace("tl.store(out_ptr + offsets, 2.0 * x", "tl.store(x_ptr + offsets, tl.load(x_ptr + offsets)")
    )


def test_findings_name_the_line() -> None:
    found = check_contract(GOOD.replace("2.0 * x", "tl.tanh(x)"), OutputRules(forbidden_functions=FORBIDDEN))
    assert [finding.where for finding in found if finding.check == "contract.forbidden"] == ["line 13"]


@pytest.mark.parametrize(
    "edit",
    [
        ("    mask =", "    if n <= 0:\n        return\n    mask ="),
        ("    mask =", "    acc = offsets[:, None] + offsets[None, :]\n    mask ="),
        ("@triton.jit", '@triton.heuristics({"BLOCK": lambda args: 256})\n@triton.jit'),
        ("@triton.jit", "LIMIT = tl.constexpr(4)\n\n\nclass Holder:\n    pass\n\n\n@triton.jit"),
        ("    tl.store(", "    tl.store(out_ptr + n + offsets, x, mask=mask)\n    tl.store("),
        ("    tl.store(", "    tl.store(out_ptr + offsets, x, mask=mask)\n    offsets += n\n    tl.store("),
        ("import torch\n", "import torch\nimport math\n"),
        ("2.0 * x", "tl.math.erf(x) + tl.exp(x)"),
        ("tl.load(x_ptr + offsets, mask=mask, other=0.0)", "tl.load(x_ptr + tl.program_id(0))"),
    ],
)
def test_legal_styles_are_left_alone(edit: tuple[str, str]) -> None:
    assert findings(GOOD.replace(*edit, 1)) == {}


def test_stores_in_different_branches_are_one_store() -> None:
    branches = (
        "    if n > 4:\n        tl.store(out_ptr + offsets, x)\n    else:\n        tl.store(out_ptr + offsets, x)\n"
    )
    source = GOOD.replace("    tl.store(out_ptr + offsets, 2.0 * x, mask=mask)\n", branches)
    assert findings(source) == {}
    assert "contract.one_store" in findings(source, strict=True)


def test_a_load_before_the_store_is_no_intermediate() -> None:
    source = GOOD.replace("tl.store(out_ptr +", "tl.store(x_ptr +")
    assert findings(source) == {}


TUNED = GOOD.replace(
    "@triton.jit",
    "@triton.autotune([\n"
    '    triton.Config({"BLOCK": 256}, num_warps=4, num_stages=2),\n'
    '    triton.Config({"BLOCK": 512}, num_warps=8, num_stages=3),\n'
    '], key=["n"])\n@triton.jit',
)
RULES = StageRules(
    Stage.ADVANCED_MEMORY,
    "tuning",
    num_warps=(4, 8),
    num_stages=(2, 3),
    max_autotune_configs=3,
    conservative_baseline=(4, 2),
)


def test_a_list_within_the_stage_is_accepted() -> None:
    assert findings(TUNED, RULES) == {}


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("contract.stage_warps", "num_warps=8", "num_warps=2"),
        ("contract.stage_stages", "num_stages=3", "num_stages=5"),
        ("contract.stage_baseline", "num_warps=4, num_stages=2", "num_warps=4, num_stages=3"),
        ("contract.stage_configs", "], key", '    triton.Config({"BLOCK": 64}),\n' * 3 + "], key"),
        ("contract.stage_warps", "BLOCK=256)", "BLOCK=256, num_warps=16)"),
    ],
)
def test_stage_limits(check: str, old: str, new: str) -> None:
    source = TUNED.replace(old, new, 1)
    assert source != TUNED
    assert check in findings(source, RULES)
    assert check not in findings(source)


def test_a_value_that_one_of_several_stages_permits_is_permitted() -> None:
    free = StageRules(Stage.BLOCK_TILING, "tiles")
    assert findings(TUNED.replace("num_warps=8", "num_warps=2"), RULES, free) == {}


def test_rules_can_be_switched_off() -> None:
    source = GOOD.replace("@triton.jit\n", "")
    found = check_contract(source, OutputRules(require_jit=False))
    assert "contract.jit" not in {finding.check for finding in found}


def test_constants_are_literals_and_folded_products() -> None:
    assert integer_constants("x = 4 * 64\ny = 1 << 10\nz = 7.0\nw = 'a'\nv = 1") == (4, 7, 10, 64, 256, 1024)
    assert integer_constants("def f(") == ()


def test_every_check_is_explained_and_named_once() -> None:
    names = [check.name for check in all_checks()]
    assert len(names) == len(set(names))
    for check in all_checks():
        assert check.severity in Severity
        assert check.what in explain(check.name)
        assert "Why:" in explain(check.name)


def test_an_unknown_check_offers_the_nearest() -> None:
    with pytest.raises(UnknownCheckError, match=r"contract\.order"):
        explain("contract.ordr")
