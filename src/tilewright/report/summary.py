"""What every form of the report shows: the verdict in one sentence, and the rows of the summary table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.values.exchange import Exchange
from tilewright.values.measurement import Timing, bound_by
from tilewright.values.study import Outcome, Study, Trial
from tilewright.values.verdict import Verdict


@dataclass(frozen=True)
class Row:
    """One row of the summary table.

    Attributes:
        name: `reference`, a peer's name, `given code`, `ours`.
        timing: None where there is no time.
        speed_of_light_fraction: 1.0 at the floor; None where unknown.
        error: largest norm-wise relative error over the probes, against the oracle; None where none was taken.
        allowed: what the gate allowed on the probe of that error.
        remark: the gate's word on it.
    """

    name: str
    timing: Timing | None
    speed_of_light_fraction: float | None
    error: float | None
    allowed: float | None
    remark: str


def rows(study: Study) -> tuple[Row, ...]:
    """The summary table: reference, given code and ours, as far as they exist."""
    result = []
    judged = study.best or study.given
    if study.oracle == "reference":
        error = _reference_error(judged.verdict) if judged is not None else None
        fraction = study.fraction_of_speed_of_light(study.reference)
        result.append(Row("reference", study.reference, fraction, error, None, "says what is right"))
    for name, timing in study.peers.items():
        result.append(Row(name, timing, study.fraction_of_speed_of_light(timing), None, None, "for comparison"))
    if study.given is not None:
        result.append(_trial_row(study, "given code", study.given))
    if study.ours is not None:
        result.append(_trial_row(study, "ours", study.ours))
    return tuple(result)


def _trial_row(study: Study, name: str, trial: Trial) -> Row:
    error, allowed = _candidate_error(trial.verdict)
    if trial.verdict is None:
        remark = ""
    elif name == "given code" and study.oracle == "given code":
        remark = "is the specification"
    else:
        accepted = "right within limits" if trial.verdict.limits else "verified"
        remark = accepted if trial.verdict.accepted else "rejected"
    return Row(name, trial.timing, study.fraction_of_speed_of_light(trial.timing), error, allowed, remark)


def _size(value: float) -> float:
    """Order of errors: NaN is the worst."""
    return math.inf if math.isnan(value) else value


def _reference_error(verdict: Verdict | None) -> float | None:
    if verdict is None or not verdict.errors:
        return None
    finite = [row.reference_error for row in verdict.errors if math.isfinite(row.reference_error)]
    return max(finite, key=_size, default=None)


def _candidate_error(verdict: Verdict | None) -> tuple[float | None, float | None]:
    """The largest error, and what was allowed there; a probe that failed comes before one that passed.

    Where the reference itself overflows there is no error to speak of.
    """
    rows = verdict.errors if verdict is not None else ()
    told = [row for row in rows if not row.passed or math.isfinite(row.reference_error)]
    if not told:
        return None, None
    worst = max(told, key=lambda row: (not row.passed, _size(row.candidate_error)))
    return worst.candidate_error, worst.allowed_error


def sentence(study: Study) -> str:
    """The verdict on the whole run, in one sentence."""
    best = study.best
    if best is None or best.timing is None:
        return (
            f"Nothing better was found for {study.task} on the {study.gpu}: {_what_happened(study)}{_fastest(study)}."
        )
    text = f"A verified module for {study.task} on the {study.gpu}: {time_text(best.timing)} {best.timing.label}"
    if study.runner_up is not None:
        return f"{text}; {best.reason}."
    if study.speed_up is not None and study.baseline is not None:
        text += f", {study.speed_up:.2f}x as fast as {_baseline_name(study)}"
    fraction = study.fraction_of_speed_of_light(best.timing)
    if fraction is not None:
        text += f", {fraction_text(fraction)} of the speed of light"
    return text + "."


def _fastest(study: Study) -> str:
    """Which peer the user is best off with, where nothing of ours could be held against it."""
    peer = study.best_peer
    if study.ours is not None or not study.peer_wins or peer is None:
        return ""
    return f"; the fastest is {peer[0]}: {time_text(peer[1])}"


def _baseline_name(study: Study) -> str:
    if study.baseline is study.reference:
        return "the reference"
    peer = study.best_peer
    return peer[0] if peer is not None and study.baseline is peer[1] else "the given code"


def _what_happened(study: Study) -> str:
    if study.ours is not None:
        return study.ours.reason
    if not study.trials:
        return "there was nothing to try"
    if likely := _likely(study):
        return likely
    outcomes = Counter(str(trial.outcome) for trial in study.trials)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    last = study.trials[0]
    return f"{len(study.trials)} tried ({counted}); the first: {last.reason}"


def _likely(study: Study) -> str:
    """What the model says where no candidate would gain; empty where the clock spoke, or nothing could be compared."""
    times = [one.timing for one in study.trials if one.outcome is Outcome.REVERTED and one.timing is not None]
    if study.timing_kind != "modelled" or study.baseline is not study.reference or study.reference is None or not times:
        return ""
    ours, theirs = min(times, key=lambda timing: timing.time_ms), study.reference
    if ours.time_ms < theirs.time_ms:
        return ""
    bound = f", bound by the {bound_by(theirs)}" if bound_by(theirs) else ""
    return f"PyTorch is likely faster here (modelled): {time_text(theirs)} a call{bound}, ours {time_text(ours)}"


def bound_text(timing: Timing | None) -> str:
    """Which of a time's two figures binds, with both: `bound by the host: 0.071 ms a call, 0.012 ms on the GPU`."""
    if timing is None or timing.call_ms is None:
        return ""
    binds = f"bound by the {bound_by(timing)}" if not decided_by_gpu_alone(timing) else "the GPU's time alone counts"
    return f"{binds}: {timing.call_ms:.4g} ms a call, {timing.gpu_ms:.4g} ms on the GPU"


def decided_by_gpu_alone(timing: Timing) -> bool:
    """A call takes longer, and this was not asked for: calls are captured in CUDA graphs."""
    return timing.call_ms is not None and timing.time_ms < timing.call_ms


def left_out(study: Study) -> tuple[str, ...]:
    """The peers that could not be timed, each with its reason."""
    return tuple(f"{name} is left out: {why}" for name, why in study.peer_failures.items())


def spent_text(study: Study) -> str:
    """Where the run's time went, the most first."""
    of_budget = f" of {study.budget_s:.0f} s" if study.budget_s else ""
    parts = sorted(study.spent.items(), key=lambda row: -row[1])
    went = "; ".join(f"{name} {seconds:.1f} s" for name, seconds in parts)
    return f"took {study.seconds:.1f} s{of_budget}" + (f", some of it at the same time: {went}" if went else "")


@dataclass(frozen=True)
class ExchangeRow:
    """One exchange with a language model, for the table.

    Attributes:
        stage: of the run.
        place: conversation and round, counted from 1.
        came: what came back: a candidate, or the fault in words.
        good: it held a candidate.
        tokens: sent and received; `about` where the server did not count.
        cost: at the prices given, or `-`.
        seconds: of the request; `stored` where nothing was sent in this run.
    """

    stage: str
    place: str
    came: str
    good: bool
    tokens: str
    cost: str
    seconds: str


def exchange_rows(exchanges: Sequence[Exchange]) -> tuple[ExchangeRow, ...]:
    """The exchanges in order."""
    return tuple(_exchange_row(exchange) for exchange in exchanges)


def _exchange_row(exchange: Exchange) -> ExchangeRow:
    at = exchange.position
    fault = (
        "" if exchange.fault is None else f"{exchange.fault}: {exchange.detail}" if exchange.detail else exchange.fault
    )
    attempt = f", attempt {at.attempt + 1}" if at.attempt else ""
    return ExchangeRow(
        at.stage,
        f"{at.sample + 1}, round {at.round + 1}{attempt}",
        str(fault) or f"candidate {exchange.candidate}",
        exchange.fault is None,
        f"{'about ' if exchange.estimated else ''}{exchange.input_tokens} + {exchange.output_tokens}",
        "-" if exchange.cost_usd is None else f"{exchange.cost_usd:.4g} USD",
        "stored" if exchange.resumed else f"{exchange.seconds:.1f} s",
    )


def time_text(timing: Timing | None) -> str:
    """A time for people: `0.628 ms`, or `-`."""
    return "-" if timing is None else f"{timing.time_ms:.4g} ms"


def error_text(error: float | None) -> str:
    """An error for people: `3.1e-07`, or `-`."""
    return "-" if error is None else f"{error:.1e}"


def fraction_text(fraction: float | None) -> str:
    """A fraction for people: `71 %`, or `-`."""
    return "-" if fraction is None else f"{100 * fraction:.0f} %"


def bytes_text(count: float) -> str:
    """Bytes for people: `537 MB` (10**6 bytes)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count:.0f} B"


def operations_text(count: float) -> str:
    """Operations for people: `34.5 G`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count:.0f}"
