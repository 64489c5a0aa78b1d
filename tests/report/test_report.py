from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tests.search.fakes import GPU, accepted, candidate, rejected
from tilewright.gpu.speed_of_light import speed_of_light
from tilewright.report.data import SCHEMA_VERSION, study_report
from tilewright.report.files import OutputError, check_writable, write_report
from tilewright.report.page import study_page
from tilewright.report.summary import rows, sentence
from tilewright.report.terminal import study_view, verdict_view
from tilewright.values.measurement import Measured, Modelled, Work
from tilewright.values.precision import PrecisionClass
from tilewright.values.study import Outcome, Study, Trial

WORK = Work(int(504e6), int(504e6), int(1e9), int(1e6))
SOURCE = 'import torch\n\n\nclass ModelNew:\n    """<script>alert(1)</script>"""\n'


def trial(number: int, outcome: Outcome, time_ms: float, reason: str, source: str = SOURCE) -> Trial:
    verdict = rejected() if outcome is Outcome.REJECTED else accepted()
    timing = Modelled(time_ms, GPU.name, "dram")
    chosen = candidate(source, native=("convolution",))
    return Trial(number, "block_tiling" if number else "", chosen, outcome, reason, verdict, timing, timing)


def study(*, better: bool = True) -> Study:
    trials = [trial(1, Outcome.REJECTED, 1.5, "correctness.value: wrong by 1.03", "a")]
    if better:
        trials.append(trial(2, Outcome.KEPT, 2.0, "modelled at 2 ms, 2x as fast as the reference"))
    return Study(
        task="toy & co",
        gpu=GPU.name,
        gpu_key=GPU.key,
        precision="tf32",
        stages=("grid_and_parallel", "block_tiling"),
        effort="quick",
        oracle="reference",
        versions={"torch": "2.13.0", "triton": "3.7.1"},
        command="tilewright optimize toy.py --gpu 4090",
        started="2026-01-01T00:00:00+00:00",
        seconds=12.5,
        timing_kind="modelled",
        reference=Modelled(4.0, GPU.name, "dram"),
        given=trial(0, Outcome.REJECTED, 1.0, "correctness.value: wrong by 1.03", "given"),
        trials=tuple(trials),
        best_number=2 if better else None,
        work=WORK,
        speed_of_light=speed_of_light(WORK, GPU, PrecisionClass.TF32),
        notes=("times are modelled for the RTX 4090, not measured: there is no GPU here",),
    )


def text_of(view: object) -> str:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(view)
    return re.sub(r"\s+", " ", console.export_text())


def test_the_verdict_is_one_sentence() -> None:
    assert sentence(study()) == (
        "A verified module for toy & co on the RTX 4090: 2 ms modelled, 2.00x as fast as the reference, "
        "50 % of the speed of light."
    )
    assert sentence(study(better=False)).startswith("Nothing better was found for toy & co on the RTX 4090: 1 tried")


def test_the_summary_has_reference_given_code_and_ours() -> None:
    reference, given, ours = rows(study())
    assert [row.name for row in (reference, given, ours)] == ["reference", "given code", "ours"]
    assert (reference.error, given.error, ours.error) == (1e-4, 1.03, 2e-4)
    assert (given.remark, ours.remark) == ("rejected", "verified")
    assert ours.speed_of_light_fraction == pytest.approx(0.5, rel=0.01)


def test_a_rejected_module_is_never_the_time_that_we_beat() -> None:
    assert study().speed_up == pytest.approx(2.0)  # against the reference's 4 ms, not the given code's 1 ms


def test_the_terminal_shows_table_trials_findings_and_notes() -> None:
    text = text_of(study_view(study()))
    for shown in ("reference", "given code", "ours", "4 ms", "2 ms", "modelled", "1.0e-04", "1.0e+00"):
        assert shown in text
    for shown in ("kept", "rejected", "wrong by 1.03", "left to PyTorch: convolution", "note: times are modelled"):
        assert shown in text


SMALL = Measured(0.012, 0.011, 0.013, 50, "NVIDIA H200", "CUDA events, cold L2", call_ms=0.071)
PEER = "torch.compile in mode default"


def beaten() -> Study:
    """A study in which torch.compile is faster than the only trial of ours."""
    lost = replace(trial(1, Outcome.REVERTED, 2.0, f"{PEER} is faster: 0.05 ms, ours 0.071 ms"), timing=SMALL)
    peers = {PEER: replace(SMALL, call_ms=0.05)}
    failures = {f"{PEER}, channels_last": "RuntimeError: [no] kernel"}
    slow = replace(SMALL, call_ms=0.1)
    return replace(
        study(), reference=slow, timing_kind="measured", given=None, trials=(lost,), best_number=None, runner_up=1,
        peers=peers, peer_failures=failures, budget_s=75.0, spent={"compile": 3.0, "peers": 8.0},
    )  # fmt: skip


def test_both_times_are_shown_and_which_of_them_binds() -> None:
    told = beaten()
    text = text_of(study_view(told))
    for shown in ("0.071 ms", "0.012 ms", "ours is bound by the host: 0.071 ms a call, 0.012 ms on the GPU"):
        assert shown in text
    assert "bound by the host: 0.071 ms a call, 0.012 ms on the GPU" in study_page(told)
    ours = study_report(told)["summary"][-1]  # type: ignore[index]
    assert (ours["gpu_ms"], ours["call_ms"], ours["time_ms"], ours["bound_by"]) == (0.012, 0.071, 0.071, "host")  # type: ignore[index, call-overload]
    captured = replace(told, trials=(replace(told.trials[0], timing=SMALL.by_gpu_alone()),))
    assert "ours: the GPU's time alone counts" in text_of(study_view(captured))


def test_a_faster_peer_is_the_verdict_and_a_peer_that_failed_is_named() -> None:
    told = beaten()
    assert sentence(told) == (
        f"Nothing better was found for toy & co on the RTX 4090: {PEER} is faster: 0.05 ms, ours 0.071 ms."
    )
    report = study_report(told)
    assert (report["exit_code"], report["verified"], report["faster_peer"]) == (1, False, PEER)
    for shown in (text_of(study_view(told)), study_page(told)):
        assert f"{PEER}, channels_last is left out: RuntimeError: [no] kernel" in shown
    kept = told.keeping_ours()
    assert f"{PEER} is faster: 0.05 ms, ours 0.071 ms" in sentence(kept)
    assert (study_report(kept)["exit_code"], study_report(kept)["faster_peer"]) == (0, PEER)


def test_where_nothing_of_ours_gained_the_fastest_peer_is_named() -> None:
    assert sentence(replace(beaten(), runner_up=None)).endswith(f"; the fastest is {PEER}: 0.05 ms.")


def test_the_terminal_ends_with_where_the_time_went() -> None:
    text = text_of(study_view(beaten()))
    assert text.strip().endswith("took 12.5 s of 75 s, some of it at the same time: peers 8.0 s; compile 3.0 s")


def test_without_a_gpu_a_module_that_gains_nothing_is_told_that_pytorch_is_likely_faster() -> None:
    host = Modelled(0.02, GPU.name, "dram", on_gpu_ms=0.01, host_ms=0.02)
    idle = replace(trial(1, Outcome.REVERTED, 0.03, "no gain"), timing=replace(host, time_ms=0.03, host_ms=0.03))
    told = replace(study(), reference=host, given=None, trials=(idle,), best_number=None)
    assert "PyTorch is likely faster here (modelled): 0.02 ms a call, bound by the host, ours 0.03 ms" in sentence(told)
    assert "likely" not in sentence(replace(told, timing_kind="measured"))


def test_what_gained_nothing_is_one_line() -> None:
    idle = [trial(number, Outcome.REVERTED, 3.0 + number, f"no gain {number}") for number in (3, 4, 5)]
    text = text_of(study_view(replace(study(), trials=(*study().trials, *idle))))
    assert "3 more gained nothing" in text
    assert "no gain 3" in text
    assert "no gain 4" not in text


def test_measured_and_modelled_are_told_apart() -> None:
    measured = Measured(4.0, 3.9, 4.1, 50, "NVIDIA H200", "CUDA events, cold L2")
    text = text_of(study_view(replace(study(), reference=measured)))
    assert "4 ms" in text
    assert "measured" in text


def test_markup_in_what_others_wrote_is_shown_as_it_is() -> None:
    loud = replace(study(), notes=("[red]not markup[/red]",), trials=(trial(1, Outcome.KEPT, 2.0, "x[0] [bold]"),))
    text = text_of(study_view(replace(loud, best_number=1)))
    assert "[red]not markup[/red]" in text
    assert "x[0] [bold]" in text


def test_a_verdict_names_every_reason() -> None:
    text = text_of(verdict_view(rejected("rows 32 to 255 are never read"), "new.py"))
    assert "rows 32 to 255 are never read" in text
    assert "new.py: rejected for 1 reason" in text
    assert "accepted (1 probes" in text_of(verdict_view(accepted(), "new.py"))


def test_the_json_report_holds_the_whole_study() -> None:
    report = json.loads(json.dumps(study_report(study(), ["out/model_new.py"])))
    assert report["schema"] == "tilewright.report"
    assert report["schema_version"] == SCHEMA_VERSION
    assert report["verified"] is True
    assert report["exit_code"] == 0
    assert report["code"] == SOURCE
    assert report["native"] == ["convolution"]
    assert [row["timing_kind"] for row in report["summary"]] == ["modelled"] * 3
    assert len(report["study"]["trials"]) == 2
    assert report["study"]["given"]["verdict"]["findings"][0]["evidence"] == {"error": 1.03}
    nothing = study_report(study(better=False))
    assert (nothing["verified"], nothing["exit_code"], nothing["code"]) == (False, 1, None)


class _Page(HTMLParser):
    """What a page refers to, and whether its tags are closed."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("better", [True, False])
def test_the_page_is_one_file_without_external_resources(better: bool) -> None:
    text = study_page(study(better=better))
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.references == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "@import" not in text
    assert "url(" not in text
    assert 'name="viewport"' in text


def test_the_page_shows_verdict_trials_errors_findings_code_and_command() -> None:
    text = study_page(study())
    assert "2.00x as fast as the reference" in text
    for shown in ("wrong by 1.03", "kept", "rejected", "task inputs", "tilewright optimize toy.py --gpu 4090"):
        assert shown in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "toy &amp; co" in text
    assert "triton 3.7.1" in text


def test_a_page_of_a_study_with_little_in_it() -> None:
    bare = replace(study(better=False), given=None, trials=(), reference=None, work=None, speed_of_light=None, notes=())
    assert "Nothing was tried." in study_page(bare)
    assert "there was nothing to try" in sentence(bare)


def test_the_files_are_written_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    paths = write_report(study(), out)
    assert [path.name for path in paths] == ["model_new.py", "report.json", "report.html"]
    assert sorted(path.name for path in out.iterdir()) == ["model_new.py", "report.html", "report.json"]
    assert (out / "model_new.py").read_text() == SOURCE
    assert json.loads((out / "report.json").read_text())["files"] == [str(path) for path in paths]


def test_without_a_result_no_module_is_left_that_could_pass_for_one(tmp_path: Path) -> None:
    write_report(study(), tmp_path)
    paths = write_report(study(better=False), tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.html"]
    assert not (tmp_path / "model_new.py").exists()
    assert (tmp_path / "model_new.py.earlier").read_text() == SOURCE


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        check_writable(tmp_path / "file" / "out")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(study(), tmp_path / "file" / "out")
    check_writable(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
