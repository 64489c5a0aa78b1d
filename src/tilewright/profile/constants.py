"""The model's constants, each with its source or, where there is none, named as an assumption.

None is fitted to a kernel. A GPU's own figures (bandwidth, rates, clocks, limits) are in the table of GPUs.
"""

from __future__ import annotations

#: Part of the peak memory bandwidth that a long copy reaches. Assumption, from published STREAM-like copies
#: on NVIDIA parts since Volta (BabelStream reports 0.88 to 0.93 of the data sheet's figure).
DRAM_EFFICIENCY = 0.90

#: Latency of a load that goes to device memory, cycles at boost clock, unloaded: 466 (A100), 479 (H100), 541
#: (RTX 4090) in Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via
#: Microbenchmarking" (2024).
DRAM_LATENCY_CYCLES = 500.0

#: How much longer that latency is when the memory is near its bandwidth. Assumption (queueing doubles it).
LOADED_LATENCY_FACTOR = 2.0

#: Bytes a clock that one multiprocessor can take from L2: 64 by NVIDIA's A100 whitepaper (5120 bytes a clock
#: over its slices, 64 each); half of it is taken as reachable by one SM alone. Assumption for the half.
SM_PORT_BYTES_PER_CLOCK = 32.0

#: The same with all multiprocessors asking at once. Assumption, from published L2 bandwidths (5 to 7 TB/s on
#: A100 and H100: 22 to 30 bytes a clock and SM).
L2_BYTES_PER_CLOCK_PER_SM = 24.0

#: Part of a thread's registers that loads in flight may occupy. Assumption: the other half holds addresses,
#: masks and accumulators.
REGISTERS_FOR_LOADS = 0.5

#: Part of the dense tensor-core rate that a large product of a library reaches. Assumption; cuBLAS reaches
#: 0.65 to 0.85 of the data sheet's rate on real data, since the clock drops under load.
MATRIX_EFFICIENCY = 0.75

#: The same for a convolution by implicit GEMM, and for a product in a Triton kernel. Assumptions: gathers
#: and boundary taps cost a convolution a third more; a Triton product without hand-tuning likewise.
CONVOLUTION_EFFICIENCY = 0.50
TRITON_MATRIX_EFFICIENCY = 0.50

#: Part of the copy's bandwidth that a change of layout (NCHW to NHWC and back) reaches. Assumption: one side
#: of a transposition is strided.
LAYOUT_COPY_EFFICIENCY = 0.65

#: Part of the copy's bandwidth of a strided reduction in eager PyTorch (over dims that are not the last).
#: Assumption.
REDUCTION_EFFICIENCY = 0.80

#: Milliseconds between a kernel and the next in one stream: start, ramp, drain. Assumption: 2 to 5
#: microseconds are commonly measured for an empty kernel.
LAUNCH_MS = 0.003
