"""The precision table: scalings, errors of the worst sample, verdicts, and the command without a GPU."""

import math

import pytest
import torch
from torch import nn

from benchmarks import precision
from benchmarks.cases import find_cases
from benchmarks.precision import PrecisionRow, exact_output, measure_case, scalings, table, worst_sample

CASE = find_cases(["workloads"], ["linear_batchnorm_gelu_relu"])[0]


def test_scalings_cover_the_range_and_mixed_scales() -> None:
    found = dict(scalings(torch.rand(4, 3)))
    assert {"1e-30", "1e0", "1e30", "samples", "elements"} <= set(found)
    assert found["samples"].shape == (4, 1)
    assert found["elements"].shape == (4, 3)
    assert float(found["1e30"]) == pytest.approx(1e30)


def test_the_worst_sample_counts_however_small_it_is() -> None:
    right = torch.tensor([[1e20, 1e20], [1e-20, 1e-20]], dtype=torch.float64)
    got = right.clone()
    got[1, 0] *= 1.5
    assert worst_sample([got], [right]) == pytest.approx(0.5 / math.sqrt(2))
    got[0, 0] = math.inf
    assert worst_sample([got], [right]) == math.inf


def test_what_exceeds_the_type_is_infinite_in_the_oracle() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1e30)
    x = torch.tensor([[1e30], [1.0]])
    (exact,) = exact_output(module, [x], [module(x)])
    assert exact[0, 0] == math.inf
    assert exact[1, 0].item() == pytest.approx(1e30, rel=1e-6)


def test_a_right_module_passes_and_a_coarse_one_does_not() -> None:
    module = nn.Sequential(nn.Linear(16, 8), nn.ReLU()).eval()
    inputs = [torch.rand(5, 16) - 0.5]
    assert all(row.passed for row in measure_case(CASE, module, module, inputs))
    coarse = measure_case(CASE, lambda x: module(x.half().float()), module, inputs)
    verdicts = {row.scaling: row.passed for row in coarse}
    assert not verdicts["1e30"], "float16 overflows"
    assert not verdicts["1e0"], "11 bits are not 24"
    assert verdicts["1e-30"], "there, only the bias counts"


def test_only_a_single_input_is_cut() -> None:
    assert [x.shape for x in precision.cut([torch.rand(8, 4)], 12)] == [(3, 4)]
    assert [x.shape for x in precision.cut([torch.rand(8, 4)], 1)] == [(2, 4)]
    assert [x.shape for x in precision.cut([torch.rand(8, 4), torch.rand(4, 8)], 12)] == [(8, 4), (4, 8)]


def test_a_failure_is_a_row() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    rows = measure_case(CASE, broken, nn.Linear(4, 4).eval(), [torch.rand(2, 4)])
    assert all("no such kernel" in row.failure and not row.passed for row in rows)
    assert "no such kernel" in table(rows)


def test_rows_survive_json() -> None:
    row = PrecisionRow("a", "1e0", 1e-4, math.inf, 2e-4)
    data = precision.as_json(row)
    assert isinstance(data, dict)
    assert PrecisionRow(**precision._numbers(data)) == row


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert precision.main([]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err
    assert precision.main(["--only", "nothing"]) == 2
