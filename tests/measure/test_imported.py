"""Profiles from files: Nsight Compute's pages, the documents, and what is no profile."""

import json

import pytest

from tilewright.errors import DocumentError
from tilewright.measure import imported
from tilewright.measure.imported import ProfileFileError, import_profile
from tilewright.measure.ncu import METRICS, ncu_command, plain_name, read_csv
from tilewright.values import profile as names

RAW = """==PROF== Connected to process 1
==WARNING== something else
"ID","Process ID","Kernel Name","Block Size","Grid Size","Device","CC","gpu__time_duration.sum","dram__bytes_read.sum",\
"launch__grid_size","launch__registers_per_thread","sm__warps_active.avg.pct_of_peak_sustained_active",\
"smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_selected_per_issue_active.ratio","launch__occupancy_limit_registers"
"","","","","","","","us","Mbyte","","register/thread","%","inst","inst","inst","block"
"0","9","my_kernel","(128, 1, 1)","(16, 256, 1)","0","9.0","1,234.5","2","4,096","48","58.43","3","1","1","10"
"1","9","void at::native::copy<float>(int)","(64, 1, 1)","(8, 1, 1)","0","9.0","2","1","8","16","50","0","0","1","32"
"2","9","my_kernel","(128, 1, 1)","(16, 256, 1)","0","9.0","1,235.5","4","4,096","48","58.45","3","1","1","10"
"""

DETAILS = """"ID","Process ID","Kernel Name","Block Size","Grid Size","Device","CC","Section Name",\
"Metric Name","Metric Unit","Metric Value","Rule Name"
"0","9","my_kernel","(128, 1, 1)","(32, 1, 1)","0","8.9","GPU Speed Of Light Throughput","Duration","us","7.5",
"0","9","my_kernel","(128, 1, 1)","(32, 1, 1)","0","8.9","GPU Speed Of Light Throughput","DRAM Throughput","%","88.71",
"0","9","my_kernel","(128, 1, 1)","(32, 1, 1)","0","8.9","Occupancy","Block Limit Registers","block","2",
"0","9","my_kernel","(128, 1, 1)","(32, 1, 1)","0","8.9","SpeedOfLight","","","","SOLBottleneck"
"""


def write(tmp_path, text, name="profile.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_raw_page_in_base_units_launches_of_a_kernel_together(tmp_path):
    profile = import_profile(write(tmp_path, RAW), gpu="H200", own=frozenset({"my_kernel"}))
    first, second = profile.kernels
    assert (first.kernel, first.launches, first.grid, first.warps) == ("my_kernel", 2, (16, 256, 1), 4)
    assert first.metrics[names.DURATION_NS] == pytest.approx(1_235_000)
    assert first.duration_ms == pytest.approx(1.235)
    assert first.dram_read_bytes == pytest.approx(3e6)
    assert first.stalls == {"long_scoreboard": 0.75, "wait": 0.25}
    assert first.occupancy_limits == {"registers": 10}
    assert (first.native, second.native) == (False, True)
    assert second.kernel == "at::native::copy"
    assert profile.total_ms == pytest.approx(2 * 1.235 + 0.002)
    assert not profile.modelled
    assert profile.as_document()["my_kernel"][names.GRID_SIZE] == 4096


def test_the_details_page(tmp_path):
    [kernel] = import_profile(write(tmp_path, DETAILS)).kernels
    assert kernel.duration_ms == pytest.approx(0.0075)
    assert kernel.metrics[names.DRAM_THROUGHPUT] == 88.71
    assert kernel.metrics[names.GRID_SIZE] == 32
    assert kernel.occupancy_limits == {"registers": 2}


def test_a_documents_json_and_a_document(tmp_path):
    metrics = {"my_kernel": dict.fromkeys(names.DOCUMENT_METRICS, 12.5)}
    profile = import_profile(write(tmp_path, json.dumps(metrics), "metrics.json"), gpu="RTX 4090")
    assert profile.as_document() == metrics
    assert profile.total_ms is None
    assert profile.gpu == "RTX 4090"


@pytest.mark.documents
def test_the_documents_metrics_come_back_as_they_are(documents_dir):
    for path in sorted(documents_dir.glob("*.txt")):
        [kernel] = import_profile(path).kernels
        assert list(kernel.metrics) == list(names.DOCUMENT_METRICS)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.csv", "nothing at all", ProfileFileError),
        ("a.csv", '"ID","Process ID"\n', None),
        ("a.json", "{", DocumentError),
        ("a.json", '{"kernel": {"metric": "much"}}', DocumentError),
        ("a.json", '{"kernel": {"metric": NaN}}', DocumentError),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path, name, text, error):
    path = write(tmp_path, text, name)
    if error is None:
        assert import_profile(path).kernels == ()
        return
    with pytest.raises(error) as caught:
        import_profile(path)
    assert str(path) in str(caught.value)


def test_a_report_without_its_library_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(imported, "_report_library", lambda: None)
    with pytest.raises(ProfileFileError, match="report library") as caught:
        import_profile(write(tmp_path, "", "a.ncu-rep"))
    assert "--page raw" in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ProfileFileError, match="cannot be read"):
        import_profile(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileFileError, match="UTF-8"):
        import_profile(tmp_path / "binary.csv")


def test_ncu_is_asked_for_the_documents_metrics_and_leaves_the_clocks_alone(tmp_path):
    command = ncu_command(tmp_path / "ncu", ["python", "x.py"])
    assert command[command.index("--clock-control") + 1] == "none"
    assert set(names.DOCUMENT_METRICS) <= set(METRICS)
    assert command[-2:] == ["python", "x.py"]
    assert "--metrics" not in ncu_command(tmp_path / "ncu", ["x"], named=False)


@pytest.mark.parametrize(
    ("name", "plain"),
    [("kernel", "kernel"), ("void a::b<int, float>(int*)", "a::b"), ("static f(int)", "f"), ("", "")],
)
def test_names_without_types(name, plain):
    assert plain_name(name) == plain


def test_no_table_is_an_error():
    with pytest.raises(ValueError, match="table"):
        read_csv("==ERROR== nothing was profiled")
