"""The benchmark's cases, checks, record and runner, with a fake clock and without a GPU."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import workloads
from benchmarks.cases import CASE_LISTS, find_cases, python_file
from benchmarks.check import leaves, make_probes, most_responsive_scale, relative_error, scaled, sensitivity
from benchmarks.ours import read_candidates
from benchmarks.peers import PEERS, NotApplicableError, convert_module, converted_inputs
from benchmarks.results import (
    CaseResult,
    Check,
    Kind,
    Run,
    SubjectResult,
    case_as_json,
    case_from_json,
    geometric_mean,
    run_as_json,
    table,
)
from benchmarks.worker import CaseRun, Job, read_job, write_job
from tilewright.gate.reference.subject import ReducedProducts
from tilewright.task.module_source import build_module, make_inputs
from tilewright.task.task import ModuleSource

ALL_CASES = find_cases(list(CASE_LISTS), [])

# --- cases


def test_there_are_as_many_cases_as_the_benchmark_promises():
    assert len(CASE_LISTS["workloads"]()) == 5
    assert len(CASE_LISTS["shapes"]()) >= 20
    assert len(CASE_LISTS["modules"]()) >= 24
    assert len({case.name for case in ALL_CASES}) == len(ALL_CASES)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_every_case_is_a_file_that_runs(case):
    source = ModuleSource(source=case.source, class_name="Model")
    with torch.no_grad():
        output = build_module(source, device="meta")(*make_inputs(source, device="meta"))
    assert output.numel() > 0
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}
    assert output.dtype is half.get(case.precision, torch.float32)


def test_the_modules_cover_every_anchor_and_normalisation():
    text = "\n".join(case.source for case in CASE_LISTS["modules"]())
    anchors = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Linear")
    others = ("bmm", "addmm", " @ ", "groups=channels", "max_pool", "avg_pool", "softmax", "logsumexp", "cumsum")
    norms = ("LayerNorm", "GroupNorm", "InstanceNorm2d", "RMSNorm", "BatchNorm2d")
    reductions = ("amax", "amin", ".sum(", ".mean(")
    assert [name for name in (*anchors, *others, *norms, *reductions) if name not in text] == []
    assert {case.precision for case in CASE_LISTS["modules"]()} == {"tf32", "fp16", "bf16"}


def test_cases_are_chosen_by_name_and_by_document():
    assert [case.name for case in find_cases(["workloads"], ["003"])] == ["linear_batchnorm_gelu_relu"]
    assert all(case.name.startswith("min_sum") for case in find_cases(["shapes"], ["min_sum"]))
    with pytest.raises(LookupError, match="no case starts with 'nonsense'"):
        find_cases(["workloads"], ["nonsense"])


class Small(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return torch.relu(self.linear(x))


SMALL = python_file(Small, "[8]", "[torch.rand(4, 8)]")


# --- checks


def test_the_error_is_norm_wise_and_sees_non_finite_places():
    right = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error([right.float()], [right]) == 0.0
    assert relative_error([torch.tensor([3.0, 4.5])], [right]) == pytest.approx(0.1)
    assert relative_error([torch.tensor([3.0, math.nan])], [right]) == math.inf
    infinite = torch.tensor([1.0, math.inf], dtype=torch.float64)
    assert relative_error([infinite.float()], [infinite]) == 0.0


def test_scaling_parameters_is_undone_exactly():
    module = nn.Linear(8, 8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with scaled(module, 2.0**-10):
        assert not torch.equal(module.weight, before["weight"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Saturated(nn.Module):
    """GELU of a large negative sum: constant unless the weights are small."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3)

    def forward(self, x):
        return torch.nn.functional.gelu(self.conv(x).amin(dim=1).sum(dim=(1, 2)) * 4)


def test_a_saturated_module_is_made_to_respond():
    torch.manual_seed(0)
    module = Saturated().requires_grad_(False)
    first, second = torch.randn(2, 3, 4, 16, 16)
    assert sensitivity(module, [first], [second]) < 1e-3
    scale, responds = most_responsive_scale(module, [first], [second])
    assert scale < 1
    assert responds > 0.05


def test_probes_hold_the_float64_oracle_and_allow_little():
    module = Small(8).eval().requires_grad_(False)
    probes = make_probes(module, [torch.rand(4, 8)], "ieee")
    assert [probe.name for probe in probes] == ["task inputs", "responsive"]
    for probe in probes:
        assert probe.expected[0].dtype is torch.float64
        assert 0 < probe.allowed < 1e-4
        assert probe.oracle == "float64"
    assert leaves({"a": [torch.ones(1)], "b": (torch.ones(2), 3)})[1].shape == (2,)


def test_a_class_allows_what_it_costs_by_itself_and_no_more():
    module = nn.Conv2d(3, 8, 3).eval().requires_grad_(False)
    inputs = [torch.randn(2, 3, 8, 8)]
    (exact, _), (reduced, _) = (make_probes(module, inputs, precision) for precision in ("ieee", "tf32"))
    with ReducedProducts(10, nearest=True):
        error = relative_error(leaves(module(*inputs)), reduced.expected)
    assert exact.allowed < error < reduced.allowed < 10 * error


def test_channels_last_converts_module_and_inputs_or_does_not_apply():
    peer = next(peer for peer in PEERS if peer.channels_last)
    module = nn.Conv2d(4, 8, 3)
    convert_module(module)
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    (x,) = converted_inputs(peer, [torch.rand(2, 4, 8, 8)])
    assert x.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(NotApplicableError):
        converted_inputs(peer, [torch.rand(4, 8)])


# --- one case, with a fake clock


class FakeTimer:
    def __init__(self, times):
        self.times = times

    def prepare(self, label, call):
        pass

    def sample(self, label, call):
        call()
        return self.times[label]

    def method(self, label):
        return "fake"


RIGHT = SMALL.replace("class Model(", "class ModelNew(").split("def get_init_inputs")[0]
WRONG = RIGHT.replace("torch.relu(self.linear(x))", "self.linear(x)")


def run_case(tmp_path, **changes):
    job = Job(**({"name": "small", "description": "", "precision": "tf32", "source": SMALL, "peers": ()} | changes))
    run = CaseRun(job, tmp_path, device="cpu")
    with torch.no_grad():
        run.prepare()
        run.measure(FakeTimer({"reference": 4.0, "document": 2.0, "ours": 1.0}))
    run.save()
    return case_from_json(json.loads((tmp_path / "result.json").read_text()))


def test_a_case_checks_first_and_then_times(tmp_path):
    result = run_case(tmp_path, ours=RIGHT, document=WRONG)
    assert [subject.name for subject in result.subjects] == ["reference", "document", "ours"]
    assert result.ours is not None
    assert result.ours.median_ms == 1.0
    assert result.ratio_to(result.subject("reference")) == 4.0
    document = result.subject("document")
    assert document.median_ms == 2.0
    assert not document.right
    assert [check.passed for check in document.checks] == [False, False]
    assert result.oracle == "float64"


def test_what_fails_is_recorded_and_the_rest_goes_on(tmp_path):
    result = run_case(tmp_path, ours="class ModelNew:\n    pass\n", document="import nothing_like_this\n" + RIGHT)
    assert result.subject("reference").median_ms == 4.0
    assert "nothing_like_this" in result.subject("document").failure
    assert result.subject("ours").failure
    assert result.ours is None
    assert result.ratio is None


def test_why_there_is_no_ours_is_recorded(tmp_path):
    result = run_case(tmp_path, ours_failure="nothing better was found")
    assert "nothing better was found" in result.subject("ours").failure


def test_a_job_travels_as_json(tmp_path):
    job = Job("a", "b", "tf32", SMALL, peers=("compile",), wait=True)
    write_job(tmp_path, job)
    assert read_job(tmp_path) == job


# --- the record

PASSED = (Check("task inputs", 1e-6, 1e-5, True),)
FAILED = (Check("task inputs", math.inf, 1e-5, False, "shapes"),)


def subject(name, kind, ms, checks=PASSED, failure=""):
    return SubjectResult(name, kind, ms, ms, ms, 9, "fake", 1.0, checks, failure)


def case(name="a", ours=1.0, ours_checks=PASSED):
    subjects = (
        subject("reference", Kind.REFERENCE, 8.0),
        subject("compile", Kind.PEER, 4.0),
        subject("compile channels_last", Kind.PEER, 2.0),
        subject("compile max-autotune", Kind.PEER, 0.5, FAILED),
        subject("compile fp16 autocast", Kind.INFORMATION, 0.1),
        subject("ours", Kind.OURS, ours, ours_checks),
    )
    return CaseResult(name, "", "tf32", subjects, speed_of_light_ms=0.5)


def test_ours_is_held_against_the_best_right_peer_of_its_class():
    result = case()
    assert result.best_peer.name == "compile channels_last"
    assert result.ratio == 2.0
    assert result.fraction_of_speed_of_light == 0.5


def test_a_wrong_module_has_no_ratio():
    assert case(ours_checks=FAILED).ratio is None


def test_the_geometric_mean_is_over_cases_with_a_ratio():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([]) is None
    run = Run("2026-01-01T00:00:00", "c", "GPU", "1", {}, (case(), case("b", 0.5), case("c", 1, FAILED)), 1.0, 2.0)
    assert run.ratios == (2.0, 4.0)
    record = run_as_json(run)
    assert record["geometric_mean_ratio_to_best_peer"] == pytest.approx(math.sqrt(8))
    assert record["cases_with_a_ratio"] == 2
    assert record["cases"][0]["best_peer"] == "compile channels_last"
    assert record["cases"][0]["ratio_to_compile_default"] == 4.0
    assert json.loads(json.dumps(record))["gpu"] == "GPU"
    shown = table(run)
    assert "0.5 !" in shown
    assert "geometric mean 2.828 over 2 cases" in shown


def test_a_case_comes_back_from_json_as_it_was():
    result = case(ours_checks=FAILED)
    assert case_from_json(json.loads(json.dumps(case_as_json(result)))) == result


def test_the_record_is_named_after_date_gpu_and_lists():
    run = Run("2026-11-21T10:00:00+00:00", "", "NVIDIA H200", "", {}, (), 0.0, 0.0)
    assert workloads.record_path(Path("results"), run, ["workloads"]) == Path("results/2026-11-21-h200-workloads.json")


# --- the runner


def fake_worker(script):
    def start(folder):
        code = f"import sys, pathlib, json, time\nfolder = pathlib.Path(sys.argv[1])\n{script}"
        return subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.DEVNULL)

    return start


OBEDIENT = """
(folder / "ready").touch()
while not (folder / "go").exists(): time.sleep(0.01)
record = json.loads((folder / "prepared.json").read_text())
(folder / "result.json").write_text(json.dumps(record))
"""


def test_workers_prepare_together_and_are_timed_one_after_another(tmp_path):
    jobs = [Job(name, "", "tf32", "") for name in ("a", "b")]
    for job in jobs:
        folder = tmp_path / "cases" / job.name
        folder.mkdir(parents=True)
        (folder / "prepared.json").write_text(json.dumps(case_as_json(case(job.name))))
    results = workloads.run_batch(jobs, tmp_path, math.inf, start=fake_worker(OBEDIENT))
    assert [(result.name, result.ratio, result.failure) for result in results] == [("a", 2.0, ""), ("b", 2.0, "")]


def test_a_worker_that_dies_is_a_failure_not_the_end(tmp_path):
    job = Job("a", "", "tf32", "")
    (result,) = workloads.run_batch([job], tmp_path, math.inf, start=fake_worker("sys.exit(3)"))
    assert "exit code 3" in result.failure


def test_what_a_worker_found_before_it_died_is_kept(tmp_path):
    (tmp_path / "cases" / "a").mkdir(parents=True)
    (tmp_path / "cases" / "a" / "prepared.json").write_text(json.dumps(case_as_json(case("a"))))
    dying = OBEDIENT + "\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    (result,) = workloads.run_batch([Job("a", "", "tf32", "")], tmp_path, math.inf, start=fake_worker(dying))
    assert result.ratio == 2.0
    assert "exit code -9" in result.failure


def test_a_worker_that_hangs_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(workloads, "PREPARE_S", 0.2)
    hanging = fake_worker("time.sleep(60)")
    (result,) = workloads.run_batch([Job("a", "", "tf32", "")], tmp_path, math.inf, start=hanging)
    assert "out of time while it was compiled" in result.failure


def test_cases_beyond_the_budget_are_recorded_as_not_run(tmp_path):
    (result,) = workloads.run_batch([Job("a", "", "tf32", "")], tmp_path, ends=0.0)
    assert result.failure == "not run: out of time"


def test_candidates_are_read_from_a_folder(tmp_path):
    cases = CASE_LISTS["workloads"]()[:2]
    (tmp_path / cases[0].name).mkdir()
    (tmp_path / cases[0].name / "model_new.py").write_text("# ours")
    found = read_candidates(cases, tmp_path)
    assert found[cases[0].name].source == "# ours"
    assert "there is no" in found[cases[1].name].failure


@pytest.mark.documents
def test_the_documents_code_is_found_by_number(documents_dir):
    found = workloads.documents_code(CASE_LISTS["workloads"](), documents_dir)
    assert len(found) == 5
    assert all("class ModelNew" in code for code in found.values())


def test_help_and_list_need_no_gpu(capsys):
    with pytest.raises(SystemExit) as ended:
        workloads.main(["--help"])
    assert ended.value.code == 0
    assert "--skip-peers" in capsys.readouterr().out
    assert workloads.main(["--list", "--only", "004"]) == 0
    assert "multiply_global_mean" in capsys.readouterr().out


def test_an_unknown_case_is_bad_input(capsys):
    assert workloads.main(["--only", "nonsense"]) == 2
    assert "no case starts with" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_2(capsys):
    assert workloads.main([]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err


def test_counters_agree_within_the_spread_of_plain_runs() -> None:
    from benchmarks.counters import agrees
    from tilewright.values import profile as names

    assert agrees(names.DRAM_THROUGHPUT, 51.5, (50.0, 50.8))
    assert not agrees(names.DRAM_THROUGHPUT, 53.0, (50.0, 50.8))
    assert not agrees(names.DRAM_THROUGHPUT, None, (50.0, 50.8))
    assert agrees(names.GRID_SIZE, 32.0, (32.0, 32.0))
    assert not agrees(names.GRID_SIZE, 33.0, (32.0, 32.0))
    assert agrees(names.DURATION_NS, 1020.0, (1000.0, 1000.0))
    assert not agrees(names.DURATION_NS, 1100.0, (1000.0, 1000.0))


def test_counters_read_the_raw_page() -> None:
    from benchmarks.counters import METRICS, read_table

    head = ",".join(f'"{name}"' for name in ("ID", "Kernel Name", *METRICS))
    units = ",".join(['""'] * (2 + len(METRICS)))
    launches = [",".join(['"0"', '"scale_kernel"', *[f'"1,0{n}{k}"' for n in range(len(METRICS))]]) for k in (0, 2)]
    text = "\n".join(["==PROF== Connected", head, units, *launches])
    assert read_table(text, ["scale_kernel", "other"]) == {
        "scale_kernel": {name: 1001.0 + 10 * n for n, name in enumerate(METRICS)}
    }
    assert read_table("==ERROR== nothing", ["scale_kernel"]) == {}


def test_kernel_times_are_summed_over_each_call() -> None:
    from benchmarks.retune import per_call

    assert per_call([1.0, 2.0, 3.0, 4.0], 2) == [3.0, 7.0]
    with pytest.raises(RuntimeError, match="3 launches in 2 calls"):
        per_call([1.0, 2.0, 3.0], 2)
    with pytest.raises(RuntimeError, match="0 launches"):
        per_call([], 2)


def test_every_plain_kernel_of_the_retune_benchmark_is_a_task(tmp_path: Path) -> None:
    from benchmarks.retune import subjects
    from tilewright.task.load import load_task

    found = subjects(None)
    assert len(found) == 6
    for subject in found:
        path = tmp_path / f"{subject.name}.py"
        path.write_text(subject.code)
        assert load_task(path, init=subject.init, inputs=subject.inputs, gpu="4090").given_code_is_specification
