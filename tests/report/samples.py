"""A study with something in every part of its report."""

from __future__ import annotations

from dataclasses import replace

from tests.search.fakes import GPU, accepted, candidate, rejected
from tilewright.diagnosis.diagnose import diagnose
from tilewright.diagnosis.facts import Facts, Figure, KernelFacts, NativeFacts, Traffic, Unread
from tilewright.gpu.speed_of_light import speed_of_light
from tilewright.search.sight import roofline_points
from tilewright.values import profile as m
from tilewright.values.candidate import NativeCall
from tilewright.values.exchange import Exchange, Fault, Message, Position
from tilewright.values.measurement import Modelled, Work
from tilewright.values.precision import PrecisionClass
from tilewright.values.profile import ForwardProfile, KernelProfile
from tilewright.values.sight import Ceilings, Sight
from tilewright.values.study import Outcome, StageResult, Study, Trial

WORK = Work(int(504e6), int(504e6), int(9e9), int(1e9))
SOURCE = '''import torch
import torch.nn as nn
import triton
import triton.language as tl


class ModelNew(nn.Module):
    """<script>alert(1)</script> and a line that is so long that it fits on the screen of no phone"""
'''
LONG = "fused_multiplication_addition_hardtanh_scale_and_global_average_pooling_kernel_optimized"


def _kernel(name: str, time_ms: float, dram: float, unread: tuple[Unread, ...] = ()) -> KernelFacts:
    measured = KernelProfile(
        name, GPU.name, False, "document",
        metrics={m.SM_THROUGHPUT: 9.25, m.GRID_SIZE: 4096, m.WARPS_ACTIVE: 32.46, m.DRAM_THROUGHPUT: dram},
    )  # fmt: skip
    modelled = KernelProfile(
        name, GPU.name, True, "model", (64, 64, 1), duration_ms=time_ms, warps=4, registers=48, shared_bytes=512,
        active_blocks=10, waves=3.2, limits={"dram": 0.3, "latency": time_ms}, limit="latency",
        schedule="BLOCK_H=32, BLOCK_C=128, num_warps=4, num_stages=3", load_bytes_per_sector=4.0,
        dram_read_bytes=67e6, metrics={m.DRAM_THROUGHPUT: dram - 3, m.L2_HIT_RATE: 87.5},
    )  # fmt: skip
    return KernelFacts(
        name, 1, modelled, measured, traffic=Traffic(int(2e6), int(537e6), maker="convolution"), unread=unread
    )


def _sight(subject: str, kernel: KernelFacts, native_ms: float) -> Sight:
    call = NativeCall("aten.convolution.default", ((16, 64),), ((16, 128),), int(67e6), int(537e6), int(9e9))
    step = NativeFacts(call, 0, Figure(native_ms, "modelled"), Traffic(int(67e6), 0, int(537e6)), limit="tensor")
    assert kernel.time_ms is not None
    total = Figure(native_ms + kernel.time_ms.value, "modelled")
    facts = Facts("toy", GPU, PrecisionClass.TF32, (kernel,), (step,), total_ms=total, notes=("nothing was measured",))
    forwards = [ForwardProfile((profile,), gpu=GPU.name, modelled=profile.modelled) for profile in kernel.profiles]
    return Sight(subject, diagnose(facts), forwards[1], forwards[0], roofline_points(facts, WORK))


def _trial(number: int, outcome: Outcome, time_ms: float, reason: str, source: str = SOURCE) -> Trial:
    verdict = rejected() if outcome is Outcome.REJECTED else accepted()
    timing = Modelled(time_ms, GPU.name, "dram")
    chosen = candidate(source, native=("convolution",))
    return Trial(number, "block_tiling" if number else "", chosen, outcome, reason, verdict, timing, timing)


def _exchange(round_: int, fault: Fault | None) -> Exchange:
    position = Position("0" * 16, "block_tiling", 0, round_, 0)
    return Exchange(
        position, "f" * 64, "model", "http://127.0.0.1:1", (Message("user", "?"),), "reply", fault,
        "two blocks" if fault else "", "" if fault else "ab" * 8, 1200, 340, False, 0.012, 3.4,
    )  # fmt: skip


def full_study() -> Study:
    """A study with every section of the page in it, and names that are too long for a phone."""
    given = _kernel(LONG, 0.6, 21.2, (Unread("x_ptr", 0.125, "elements 32 to 255 of dim 2"),))
    return Study(
        task="toy & co with a rather long name",
        gpu=GPU.name,
        gpu_key=GPU.key,
        precision="tf32",
        stages=("grid_and_parallel", "block_tiling"),
        effort="quick",
        oracle="reference",
        versions={"torch": "2.13.0", "triton": "3.7.1", "tilewright": "0.1.0+0123abcd"},
        command="tilewright optimize a/rather/long/path/to/document.txt --reference model.py --gpu 4090 --out runs/toy",
        started="2026-01-01T00:00:00+00:00",
        seconds=12.5,
        timing_kind="modelled",
        reference=Modelled(4.6, GPU.name, "dram"),
        given=_trial(0, Outcome.REJECTED, 4.2, "correctness.value: wrong by 1.03", SOURCE.replace("nn", "n2")),
        trials=(
            _trial(1, Outcome.REJECTED, 1.5, "correctness.value: wrong by 1.03", "a"),
            _trial(2, Outcome.KEPT, 2.0, "modelled at 2 ms, 2x as fast as the reference"),
            _trial(3, Outcome.REVERTED, 2.1, "modelled at 2.1 ms, which is not 2 % faster than trial 2 at 2 ms"),
        ),
        best_number=2,
        work=WORK,
        speed_of_light=speed_of_light(WORK, GPU, PrecisionClass.TF32),
        notes=("times are modelled for the RTX 4090, not measured: there is no GPU here",),
        exchanges=(_exchange(0, Fault.UNREADABLE), _exchange(1, None)),
        stage_results=(StageResult("block_tiling", 3, 2, None, None, "trial 2 of 3 candidates is kept"),),
        spent={"gate": 8.2, "compile": 3.1},
        sights=(
            replace(_sight("given code", given, 3.6)),
            _sight("ours", _kernel("multiply_mean_kernel", 0.2, 88.0), 1.8),
        ),
        ceilings=Ceilings(GPU.bandwidth_gb_s, GPU.fp32_tflops, GPU.tensor_tflops[PrecisionClass.TF32], "TF32"),
    )
