"""`tilewright diagnose` through its entry point."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.samples import Command
from tests.cli.test_commands import RIGHT
from tilewright.diagnosis.table import RULES


def test_a_document_alone_is_diagnosed_from_its_metrics(command: Command) -> None:
    shown = command("diagnose", "document.txt")
    assert shown.code == 0
    assert "document on the RTX 4090:" in shown.out
    assert "12 programs on 128 multiprocessors" in shown.out
    assert "without a reference or inputs nobody can call this code" in " ".join(shown.out.split())


def test_code_with_its_reference_as_json(command: Command, folder: Path) -> None:
    (folder / "right.py").write_text(RIGHT)
    shown = command("diagnose", "right.py", "--reference", "model.py", "--gpu", "4090", "--json")
    report = shown.json
    assert (shown.code, report["schema"]) == (0, "tilewright.diagnosis")
    assert [part["name"] for part in report["parts"]] == ["addmm", "relu_double_kernel"]
    assert report["total_label"] == "modelled"
    assert report["summary"]
    for one in report["diagnoses"]:
        assert one["evidence"][0]["threshold"] is not None
        assert one["cost_ms"] is None or one["cost_label"] == "modelled"
    assert "right.py" not in shown.out
    assert "compiling" in shown.err


def test_a_module_without_kernels_is_looked_at_in_eager_pytorch(command: Command) -> None:
    shown = command("diagnose", "model.py", "--gpu", "4090")
    assert shown.code == 0
    assert "linear (PyTorch)" in shown.out
    assert "passes of their own" in " ".join(shown.out.split())


def test_a_profile_takes_the_place_of_the_documents_own(command: Command, folder: Path) -> None:
    metrics = {"scale_kernel": {"dram__throughput.avg.pct_of_peak_sustained_elapsed": 91.5, "launch__grid_size": 4096}}
    (folder / "profile.json").write_text(json.dumps(metrics))
    report = command("diagnose", "document.txt", "--ncu", "profile.json", "--json").json
    assert [one["rule"] for one in report["diagnoses"]] == ["memory-roofline"]
    assert report["diagnoses"][0]["evidence"][0] | {"source": ""} == {
        "name": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "value": 91.5,
        "unit": "%",
        "label": "measured",
        "threshold": 80.0,
        "relation": "at least",
        "source": "",
    }


def test_bad_input_is_named(command: Command, folder: Path) -> None:
    (folder / "bad.json").write_text('{"kernel": {"metric": "many"}}')
    (folder / "broken.py").write_text("def broken(:\n")
    for arguments, words in (
        (("none.txt",), "no such file"),
        (("broken.py",), "broken.py"),
        (("document.txt", "--ncu", "bad.json"), "bad.json"),
        (("document.txt", "--ncu", "none.csv"), "none.csv"),
        (("document.txt", "--gpu", "4091"), "4091"),
        (("document.txt", "--init", "[1]"), "--inputs is missing"),
    ):
        shown = command("diagnose", *arguments)
        assert (shown.code, shown.out) == (2, ""), arguments
        assert words in shown.err
        assert "Traceback" not in shown.err


def test_every_rule_is_explained(command: Command) -> None:
    names = command("explain").out.split()
    for rule in RULES:
        assert rule.name in names
        told = command("explain", rule.name).out
        assert rule.law in told
        assert rule.threshold.source in told
    assert "did you mean memory-roofline" in command("explain", "memory-rooflin").err
