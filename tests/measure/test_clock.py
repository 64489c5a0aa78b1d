"""The clock's statistics, turns, cross-check and judgement, with a fake timer and a fake process."""

import math
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tilewright.errors import ExitCode, MissingReferenceError, TilewrightError
from tilewright.gpu.table import find_gpu
from tilewright.measure import clock
from tilewright.measure.lock import alone_on_gpu
from tilewright.measure.metronome import Beat, Metronome
from tilewright.measure.statistics import Interval, cross_check, gain_percent, is_gain, percentile, summarise
from tilewright.measure.subjects import build_candidate, candidate_as_json, source_as_json, source_from_json
from tilewright.measure.timer import LEAST_CALLS, PLANS, SamplingPlan, Subject, sample_interleaved, time_calls
from tilewright.sandbox.job import JobResult, Outcome, Part
from tilewright.task.module_source import build_module, make_inputs
from tilewright.task.stage import Stage
from tilewright.task.task import InputSpec, ModuleSource, Task
from tilewright.values import Candidate, Measured, Origin, PrecisionClass
from tilewright.values.measurement import Modelled, bound_by

PLAN = SamplingPlan(warm_up=1, samples=6, min_samples=2, budget_s=1e9, cross_check_ms=10)

# --- statistics


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_the_summary_lies_within_the_samples_and_in_order(samples):
    found = summarise(samples)
    assert min(samples) <= found.low_ms <= found.median_ms <= found.high_ms <= max(samples)
    assert found.samples == len(samples)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0, 100))
def test_percentiles_agree_with_numpy(samples, percent):
    expected = float(torch.quantile(torch.tensor(samples, dtype=torch.float64), percent / 100))
    assert percentile(sorted(samples), percent) == pytest.approx(expected, abs=1e-9)


def test_one_slow_sample_does_not_move_the_median():
    assert summarise([1.0] * 9 + [1000.0]).median_ms == 1.0


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf], [0.0], [-1.0]])
def test_samples_that_are_no_times_are_refused(samples):
    with pytest.raises(ValueError, match="sample"):
        summarise(samples)


def test_under_two_percent_is_no_gain():
    assert not is_gain(100.0, 98.5)
    assert is_gain(100.0, 98.0)
    assert not is_gain(100.0, 130.0)
    assert gain_percent(2.0, 1.0) == 50.0


# --- turns


class FakeTimer:
    """Samples from a table; remembers the order in which they were asked for."""

    def __init__(self, times):
        self.times = times
        self.order = []
        self.now_ms = 0.0
        self.walls = 0

    def prepare(self, label, call):
        pass

    def sample(self, label, call):
        self.order.append(label)
        call()
        return self.times[label]

    def wall(self, run):
        """A wall clock that counts calls: each takes a millisecond, and the wait for the last another one."""
        before = self.now_ms
        run()
        self.walls += 1
        return self.now_ms - before + 1.0

    def method(self, label):
        return "fake"


def subject(label, calls=None):
    return Subject(label, calls or [lambda: None])


def test_subjects_take_turns_and_none_always_follows_the_same():
    timer = FakeTimer({"a": 1.0, "b": 2.0, "c": 3.0})
    subjects = [subject("a"), subject("b"), subject("c")]
    sample_interleaved(subjects, timer, PLAN)
    assert timer.order[:6] == ["a", "b", "c", "c", "b", "a"]
    assert [item.samples_ms for item in subjects] == [[1.0] * 6, [2.0] * 6, [3.0] * 6]


def test_sets_of_inputs_are_used_in_turns():
    seen = []
    calls = [lambda i=i: seen.append(i) for i in range(3)]
    sample_interleaved([subject("a", calls)], FakeTimer({"a": 1.0}), PLAN)
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1]  # a first call, a warm-up call, six samples


def test_a_subject_that_fails_is_set_aside_and_the_rest_goes_on():
    countdown = iter(range(4))

    def fails_later():
        if next(countdown) == 3:
            raise RuntimeError("an illegal memory access\nand more")

    good, bad = subject("good"), subject("bad", [fails_later])
    sample_interleaved([bad, good], FakeTimer({"good": 1.0, "bad": 2.0}), PLAN)
    assert bad.failure == "RuntimeError: an illegal memory access"
    assert bad.samples_ms == []
    assert good.samples_ms == [1.0] * 6


def test_the_budget_ends_the_rounds_but_not_before_the_least_number():
    hours = iter(range(0, 10**6, 3600))
    plan = SamplingPlan(warm_up=0, samples=100, min_samples=5, budget_s=1.0, cross_check_ms=1)
    only = subject("a")
    sample_interleaved([only], FakeTimer({"a": 1.0}), plan, now=lambda: float(next(hours)))
    assert len(only.samples_ms) == 5


def test_calls_are_made_back_to_back_in_series_whose_wait_is_shared():
    timer = FakeTimer({"a": 1.0, "b": 1.0})
    order = []

    def call(label, takes_ms):
        def made():
            order.append(label)
            timer.now_ms += takes_ms

        return made

    short, long = subject("short", [call("short", 0.125)]), subject("long", [call("long", 50.0)])
    plan = SamplingPlan(warm_up=0, samples=1, min_samples=1, budget_s=1, cross_check_ms=1, calls_ms=30, call_series=3)
    time_calls([short, long], timer, plan)
    first = int(30 / (0.125 + 1 / LEAST_CALLS))  # the first few calls say how many a series has
    assert short.calls_ms == pytest.approx([0.125 + 1 / first] * 3)
    assert long.calls_ms == pytest.approx([50.0 + 1 / LEAST_CALLS] * 3)
    series = [label for label, other in zip(order, [None, *order], strict=False) if label != other]
    assert series == ["short", "long", "short", "long", "short", "long"]  # turns: there, back, and there


def test_a_call_that_fails_in_a_series_has_no_time_at_all():
    countdown = iter(range(LEAST_CALLS + 2))
    bad, good = subject("bad", [lambda: next(countdown)]), subject("good")
    for item in (bad, good):
        item.samples_ms.append(1.0)
    time_calls([bad, good], FakeTimer({}), PLAN)
    assert "StopIteration" in bad.failure
    assert bad.calls_ms == bad.samples_ms == []
    assert len(good.calls_ms) == PLAN.call_series


def test_the_longer_of_two_times_decides_unless_calls_are_captured():
    short = Measured(0.012, 0.011, 0.013, 30, "Some GPU", "fake", call_ms=0.071)
    assert (short.time_ms, short.gpu_ms, bound_by(short)) == (0.071, 0.012, "host")
    assert (short.by_gpu_alone().time_ms, bound_by(short.by_gpu_alone())) == (0.012, "GPU")
    long = Measured(1.5, 1.4, 1.6, 30, "Some GPU", "fake", call_ms=1.41)  # warm L2: a call takes less
    assert (long.time_ms, bound_by(long)) == (1.5, "GPU")
    old = Measured(1.5, 1.4, 1.6, 30, "Some GPU", "fake")
    assert (old.time_ms, bound_by(old)) == (1.5, "")
    modelled = Modelled(0.06, "Some GPU", "dram", on_gpu_ms=0.01, host_ms=0.06)
    assert (modelled.call_ms, bound_by(modelled), modelled.by_gpu_alone().time_ms) == (0.06, "host", 0.01)


def test_more_effort_takes_more_samples():
    assert PLANS["none"].samples < PLANS["quick"].samples < PLANS["full"].samples


# --- the parent's clock


def intervals(per_call_ms, overhead_ms=30.0, calls=100, label="a"):
    return [Interval(label, n, (overhead_ms + n * per_call_ms) / 1e3) for n in (calls, 2 * calls)]


@given(per_call=st.floats(0.01, 50), overhead=st.floats(0, 1000))
def test_what_both_intervals_have_in_common_falls_out(per_call, overhead):
    check = cross_check(per_call, intervals(per_call, overhead))
    assert check.observed_ms == pytest.approx(per_call, rel=1e-6, abs=1e-6)
    assert check.passed


def test_a_child_that_claims_too_short_a_time_is_contradicted():
    assert not cross_check(0.05, intervals(5.0)).passed
    assert cross_check(5.0, intervals(0.05)).passed  # warm cache, no flush: the parent may see less
    assert cross_check(0.05, intervals(0.2)).passed  # what the host does for a short call is not the device's
    assert cross_check(10.0, intervals(15.0, calls=2)).passed  # a reading of few calls is noisy ...
    assert not cross_check(10.0, intervals(150.0, calls=2)).passed  # ... but not so noisy


def test_the_time_of_a_call_is_held_more_closely_than_the_devices():
    assert cross_check(0.05, intervals(0.2)).passed
    assert cross_check(0.05, intervals(0.2), 0.2).passed
    check = cross_check(0.05, intervals(0.2, calls=2000), 0.06)
    assert not check.passed
    assert check.claimed_ms == 0.06


def test_no_figure_without_both_intervals():
    assert cross_check(1.0, intervals(1.0)[:1]) is None
    assert cross_check(1.0, []) is None


def test_the_least_of_repeated_intervals_counts():
    disturbed = [Interval("a", 100, 99.0), Interval("a", 200, 999.0)]
    assert cross_check(1.0, [*disturbed, *intervals(1.0)]).observed_ms == pytest.approx(1.0)


def test_the_metronome_times_what_the_child_runs():
    ticks = iter([10.0, 12.5, 20.0, 25.0])
    with Metronome(now=lambda: next(ticks)) as metronome:
        beat = Beat(metronome.path)
        ran = []
        beat.timed("a", 7, lambda: ran.append(7))
        beat.timed("a", 14, lambda: ran.append(14))
        beat._socket.close()
        beat._channel.close()
        metronome._thread.join(timeout=5)
    assert ran == [7, 14]
    assert metronome.intervals == [Interval("a", 7, 2.5), Interval("a", 14, 5.0)]


def test_the_metronome_survives_garbage_and_silence():
    with Metronome() as metronome:
        beat = Beat(metronome.path)
        beat._channel.write(b"\xff not json\n")
        metronome._thread.join(timeout=5)
        assert not metronome._thread.is_alive()
    with Metronome() as silent:
        pass
    assert metronome.intervals == silent.intervals == []


def test_one_measurement_at_a_time():
    order = []
    inside = threading.Event()

    def second():
        inside.wait(5)
        with alone_on_gpu("test-lock") as alone:
            order.append(("second", alone))

    thread = threading.Thread(target=second)
    with alone_on_gpu("test-lock") as alone:
        thread.start()
        inside.set()
        thread.join(timeout=0.2)
        order.append(("first", alone))
    thread.join(timeout=5)
    assert order == [("first", True), ("second", True)]
    with alone_on_gpu("test-lock"), alone_on_gpu("test-lock", patience_s=0) as alone:
        assert not alone


# --- what came back


def result(*parts, outcome=Outcome.OK, message=""):
    device = Part("device", {"gpu": "Some GPU"})
    return JobResult(outcome, message, (device, *parts), 0, "", "", 1.0, ())


def timing(label, samples, failure="", calls=None):
    times = {"samples_ms": samples, "calls_ms": samples if calls is None else calls}
    return Part("timing", {"label": label, **times, "failure": failure, "method": "fake"})


def test_a_time_needs_the_parents_confirmation():
    came = result(timing("honest", [5.0] * 5), timing("liar", [0.01] * 5), timing("mute", [5.0] * 5))
    seen = [*intervals(5.0, label="honest"), *intervals(5.0, label="liar")]
    report = clock.read_report(["honest", "liar", "mute"], came, seen)
    assert report.measured == {"honest": Measured(5.0, 5.0, 5.0, 5, "Some GPU", "fake", call_ms=5.0)}
    assert "parent's clock" in report.failures["liar"]
    assert "no figure" in report.failures["mute"]
    assert not report.checks["liar"].passed


def test_failures_and_garbage_are_reasons_not_times():
    came = result(
        timing("failed", [], failure="RuntimeError: out of memory"),
        timing("garbage", ["x"]),
        timing("no calls", [1.0], calls=[]),
        Part("timing", {"label": "empty"}),
        outcome=Outcome.CRASH,
        message="its process was killed by signal 11 (SIGSEGV)",
    )
    report = clock.read_report(["failed", "garbage", "no calls", "empty", "missing"], came, [])
    assert report.measured == {}
    assert report.failures["failed"] == "RuntimeError: out of memory"
    assert "SIGSEGV" in report.failures["missing"]
    assert set(report.failures) == {"failed", "garbage", "no calls", "empty", "missing"}


# --- modules out of a job

SOURCE = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, width, scale):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(width, 1))
        self.scale = scale

    def forward(self, x):
        return self.linear(x) * self.scale + self.bias.view(-1)
"""
NEW = SOURCE.replace("class Model(", "class ModelNew(").replace("randn(width, 1)", "randn(width)")


def module_source(**changes):
    fields = {"source": SOURCE, "class_name": "Model", "init_args": (4, 0.5), "inputs": (InputSpec("rand", (3, 4)),)}
    return ModuleSource(**(fields | changes))


def test_a_source_travels_as_json():
    source = module_source(init_args=(4, (1, 2), [3.5, None], "same"))
    assert source_from_json(source_as_json(source)) == source
    live = ModuleSource("", "Linear", pickled=b"\x00\xffbytes")
    assert source_from_json(source_as_json(live)) == live


def test_a_candidate_gets_the_references_parameters_also_in_another_shape():
    source = module_source()
    reference = build_module(source, seed=1)
    x = make_inputs(source)[0]
    candidate = candidate_as_json(Candidate(NEW, Origin.FILE, "test"))
    module = build_candidate(candidate, reference, source, "cpu")
    assert type(module).__name__ == "ModelNew"
    torch.testing.assert_close(module(x), reference(x))


def test_a_candidate_may_ask_for_the_reference_itself():
    code = "from torch import nn\nclass ModelNew(nn.Module):\n" + (
        "    def __init__(self, reference):\n        super().__init__()\n        self.reference = reference\n"
        "    def forward(self, x):\n        return self.reference(x)\n"
    )
    reference = nn.Linear(4, 4)
    data = candidate_as_json(Candidate(code, Origin.SYNTHESIZE, "test", needs_reference=True))
    module = build_candidate(data, reference, module_source(), "cpu")
    assert module.reference is reference


# --- without a GPU


def task(**changes):
    fields = {
        "name": "test",
        "reference": module_source(),
        "gpu": find_gpu("4090"),
        "stages": (Stage.MEMORY_ACCESS,),
        "rules": (),
        "precision": PrecisionClass.TF32,
    }
    return Task(**(fields | changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_error_says_so():
    with pytest.raises(clock.NoGpuError, match="no NVIDIA GPU") as caught:
        clock.measure(task(), [])
    assert isinstance(caught.value, TilewrightError)
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert "modelled" in caught.value.hint


def test_a_task_without_a_reference_cannot_be_timed(monkeypatch):
    monkeypatch.setattr(clock, "require_gpu", lambda: None)
    with pytest.raises(MissingReferenceError):
        clock.measure(task(reference=None), [])


def test_nothing_timed_is_an_error_with_the_reason(monkeypatch):
    monkeypatch.setattr(clock, "require_gpu", lambda: None)
    crash = JobResult(Outcome.TIMEOUT, "it did not end by its deadline", (), None, "", "", 1.0, ())
    monkeypatch.setattr(clock, "run_job", lambda job, **_: crash)
    with pytest.raises(clock.ClockError, match="deadline"):
        clock.measure(task(), [Candidate(NEW, Origin.FILE, "test")])


# --- with one


@pytest.mark.gpu
def test_reference_and_candidate_are_timed_together():
    big = module_source(init_args=(2048, 0.5), inputs=(InputSpec("rand", (65536, 2048)),))
    candidate = Candidate(NEW, Origin.FILE, "the same")
    report = clock.measure_with_report(task(reference=big), [candidate], effort="none")
    assert not report.failures
    reference, same = report.measured["reference"], report.measured[candidate.digest]
    assert reference.samples >= 5
    assert 0.5 < same.median_ms / reference.median_ms < 2
    assert 0.5 < same.call_ms / reference.call_ms < 2
    assert bound_by(reference) == "GPU"


@pytest.mark.gpu
def test_a_short_call_is_timed_in_a_graph():
    small = module_source(init_args=(64, 0.5), inputs=(InputSpec("rand", (32, 64)),))
    report = clock.measure_with_report(task(reference=small), [], effort="none")
    assert "CUDA graph" in report.measured["reference"].method
    reference = report.measured["reference"]
    assert 0 < reference.median_ms < 0.1
    assert reference.call_ms > reference.median_ms
    assert bound_by(reference) == "host"
