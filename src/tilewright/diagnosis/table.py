"""The rules, in the order of their laws: what is wrong, what need not be done, where time goes, what binds a kernel."""

from __future__ import annotations

from tilewright.diagnosis import forward_rules, kernel_rules, product_rules
from tilewright.diagnosis.rule import Rule, Threshold

_NCU = "Nsight Compute, rules of the section SpeedOfLight"

RULES: tuple[Rule, ...] = (
    # the result
    Rule(
        "unread",
        "an element of an operand that no program reads -> the result does not depend on it -> it is wrong",
        Threshold(0.0, "%", "over", "none may be left out: the reference reads them all"),
        forward_rules.unread_elements,
    ),
    # work that need not be done
    Rule(
        "removed-by-algebra",
        "a law of the algebra removes most of the operations -> the rest is the whole cost",
        Threshold(50.0, "%", "at least", "most of the work: half of the matrix operations"),
        forward_rules.removed_by_algebra,
    ),
    Rule(
        "redone-on-every-call",
        "a step that reads nothing but parameters -> its result is the same on every call",
        Threshold(1.0, "steps", "at least", "one such step is one too many"),
        forward_rules.redone_on_every_call,
    ),
    # time outside the kernels
    Rule(
        "native-operation",
        "a contraction of PyTorch's with steps around it -> its result goes to memory and back",
        Threshold(20.0, "%", "at least", "assumption: under a fifth of the forward pass other things come first"),
        forward_rules.native_contraction,
        explained_by=("removed-by-algebra",),
    ),
    Rule(
        "separate-passes",
        "pointwise operations one by one -> each reads and writes everything",
        Threshold(5.0, "%", "at least", "assumption: less is not worth a fused kernel"),
        forward_rules.separate_passes,
        explained_by=("removed-by-algebra",),
    ),
    Rule(
        "launch-gaps",
        "many short kernels -> the GPU waits for the next launch",
        Threshold(10.0, "%", "at least", "assumption: a tenth of the forward pass"),
        forward_rules.waiting_for_launches,
    ),
    # units and tiles of a matrix product
    Rule(
        "idle-tensor-cores",
        "a matrix product without tensor-core instructions -> the float32 rate instead of theirs",
        Threshold(1.0, "%", "under", "a product that uses them is far above it"),
        product_rules.idle_tensor_cores,
    ),
    Rule(
        "small-tile",
        "bytes asked for = operands * (1 / rows + 1 / columns) -> a small tile waits for memory",
        Threshold(
            1.5, "", "at least", "CUTLASS, 'Efficient GEMM in CUDA': tiles of 128 x 128 to 128 x 256; 1.5: assumption"
        ),
        product_rules.small_tile,
    ),
    # what binds a kernel
    Rule(
        "too-few-programs",
        "fewer programs than multiprocessors -> some have nothing to do",
        Threshold(
            1.0, "", "under", "CUDA C++ Best Practices Guide, 'Thread and Block Heuristics': more blocks than SMs"
        ),
        kernel_rules.too_few_programs,
    ),
    Rule(
        "spills",
        "more values than registers -> local memory",
        Threshold(0.0, "bytes", "over", "none is needed with a tile that fits"),
        kernel_rules.spilled_registers,
    ),
    Rule(
        "memory-roofline",
        "DRAM near its peak -> only fewer bytes help",
        Threshold(80.0, "%", "at least", f"{_NCU}: 80 % and more of a peak is called well used"),
        kernel_rules.at_dram_roofline,
        explained_by=("removed-by-algebra",),
    ),
    Rule(
        "wasted-sectors",
        "lanes at distant addresses -> sectors of 32 bytes move for a few of them",
        Threshold(
            24.0, "bytes", "under", "CUDA C++ Programming Guide: sectors of 32 bytes; three quarters: assumption"
        ),
        kernel_rules.wasted_sectors,
        explained_by=("memory-roofline",),
    ),
    Rule(
        "special-functions",
        "exponentials and divisions take longest -> 16 a clock and multiprocessor",
        Threshold(1.0, "", "over", "the longest limit binds; 16 a clock: CUDA C++ Programming Guide, throughput table"),
        kernel_rules.special_functions,
    ),
    Rule(
        "latency",
        "no unit busy -> warps wait for loads (Little's law: bytes in flight = latency * bandwidth)",
        Threshold(60.0, "%", "under", f"{_NCU}: under 60 % of every peak is called latency-bound"),
        kernel_rules.latency_bound,
        explained_by=("small-tile", "too-few-programs"),
    ),
    Rule(
        "register-limit",
        "registers used up with few warps resident -> nothing to run while loads are on their way",
        Threshold(50.0, "%", "under", "assumption: half of the warps hide the latency of a streaming kernel"),
        kernel_rules.register_limit,
        explained_by=("small-tile",),
    ),
    Rule(
        "shared-limit",
        "shared memory used up with few warps resident -> likewise",
        Threshold(25.0, "%", "under", "assumption: a pipelined product hides its latency with a quarter of the warps"),
        kernel_rules.shared_limit,
    ),
    Rule(
        "tail-wave",
        "programs that fill a part of the last wave -> the rest of the GPU waits for them",
        Threshold(10.0, "%", "at least", "assumption: a tenth of the kernel's time"),
        kernel_rules.tail_wave,
        explained_by=("memory-roofline",),
    ),
)
