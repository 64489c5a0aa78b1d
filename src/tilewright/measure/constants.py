"""The model's constants, each with its source or, where there is none, named as an assumption.

None is fitted to a kernel. A GPU's own figures (bandwidth, rates, clocks, limits) are in the table of GPUs.
"""

from __future__ import annotations

#: Part of the peak memory bandwidth that a long copy reaches: measured on an H200 (4.18 of 4.8 TB/s); BabelStream
#: reports 0.88 to 0.93 on NVIDIA parts since Volta.
DRAM_EFFICIENCY = 0.875

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

#: Bytes that PyTorch's normalisations have in flight of a row, which is one block's: 128 threads with 16 bytes each
#: (aten/src/ATen/native/cuda/layer_norm_kernel.cu, `vectorized_layer_norm_kernel`; measured on an H200: 16 rows of
#: 16 MiB take 8.3 ms), or 512 with 4 each (group_norm_kernel.cu, `RowwiseMomentsCUDAKernel`).
ROW_BYTES_IN_FLIGHT = 2048.0

#: Milliseconds between a kernel and the next in one stream: start, ramp, drain. Assumption: 2 to 5
#: microseconds are commonly measured for an empty kernel.
LAUNCH_MS = 0.003

# ---------------------------------------------------------------------------------------------------------
# Of the model of single kernels. "Measured on an H200" names `python -m benchmarks.calibrate` and its record
# in benchmarks/results; figures of other GPUs are taken to be the same in cycles, bytes a clock, and parts.

#: Cycles until a load's result is there. L1 and L2: measured on an H200 (20.6 ns and 146 ns at 1.98 GHz). Shared
#: memory, and device memory: Luo et al. (2024), tables of latencies (H100; RTX 4090: 541).
L1_LATENCY_CYCLES = 41.0
L2_LATENCY_CYCLES = 289.0
SHARED_LATENCY_CYCLES = 29.0

#: Cycles until the result of other instructions can be used. Arithmetic: 4 on compute capability 8.0 and newer
#: (CUDA C++ Programming Guide, "Multiprocessor level"); measured on an H200 for chains of multiply-adds: 4.
#: Special functions and reads of special registers: measured on an H200, 17 for a power of two with its scaling.
ARITHMETIC_LATENCY_CYCLES = 4.0
SPECIAL_LATENCY_CYCLES = 18.0
#: Of a warp's product (m16n8k16) and of an asynchronous one, until its accumulators can be read. Luo et al. (2024).
PRODUCT_LATENCY_CYCLES = 33.0
ASYNC_PRODUCT_LATENCY_CYCLES = 60.0
#: Of a barrier with all warps there. Assumption.
BARRIER_CYCLES = 20.0

#: Part of L2 within which a region that is read again and again stays, and how sharply that ends: measured on an
#: H200 (60 MiB; bandwidth of regions of 40, 48, 56 and 64 MiB).
L2_PART = 0.86
L2_SHARPNESS = 12.0
#: Part of L2 that holds results not yet written when a kernel ends: measured on an H200 (23 of 60 MiB).
L2_DIRTY_PART = 0.38
#: Part of the programs started together that stay in step, so that they share what both read. Assumption.
PROGRAMS_IN_STEP = 0.5

#: Bytes that L2 gives all multiprocessors, a clock and multiprocessor. Measured on an H200 (9.9 TB/s); RTX 4090:
#: 1622 bytes a clock, Luo et al. (2024).
L2_BYTES_PER_CLOCK_PER_SM_BY_CAPABILITY = {80: 20.0, 86: 20.0, 87: 20.0, 89: 12.7, 90: 37.8}
#: Sectors in whose time L2 answers a request of one line, whatever it wants of it. Measured on an H200: reads of one
#: sector a line bring 2.7 TB/s of sectors, of whole lines 7.2.
L2_SECTORS_PER_REQUEST = 2.5
#: Cycles for which a missing line occupies the way from L1 to L2 (64 bytes a clock, 128 a line).
L1_MISS_CYCLES_PER_LINE = 2.0
#: Cycles for which a line occupies the lookup of L1: one a clock.
L1_CYCLES_PER_LINE = 1.0
#: Bytes a clock that L1 and shared memory give (CUDA programming guides: 32 banks of 4 bytes).
L1_BYTES_PER_CLOCK = 128.0
#: L1 and shared memory of a multiprocessor together, KiB (CUDA C++ Programming Guide, technical specifications).
L1_KIB_BY_CAPABILITY = {80: 192, 86: 128, 87: 192, 89: 128, 90: 256, 100: 256, 120: 128}

#: Part of the peak bandwidth that long streams reach: measured on an H200 (copy 4.18, read 4.31, fill 4.51 of
#: 4.8 TB/s).
DRAM_READ_PART = 0.90
DRAM_COPY_PART = 0.875
DRAM_WRITE_PART = 0.935

#: Nanoseconds until the next program can start, over the whole GPU: measured on an H200 (0.617, any size).
PROGRAM_START_NS = 0.617
#: Time of a kernel that does nothing, milliseconds. Nsight Compute shows 1.5 to 2.5 us for one.
EMPTY_KERNEL_MS = 0.002

#: How limits combine: (sum of t^p)^(1/p). Measured on an H200 (copies with growing arithmetic).
LIMIT_EXPONENT = 6.0

#: The same for a warp's own latency beside what the units need. Measured on an H200 (one program that reads L2).
LATENCY_EXPONENT = 1.5

#: Part of a program's slot in which its warps are not all there: those that end first wait for the last, and
#: the next program takes a while to start. Measured on an H200 (copies by 2 to 16 warps under ncu).
SLOT_IDLE_PART = 0.06
SLOT_IDLE_PART_PER_DOUBLING = 0.03
SLOT_START_NS = 200.0

#: Part of the products' peak rate that instructions of one warp (not of a group of four) reach on compute
#: capability 9.0. Luo et al. (2024): 62.9 %.
WARP_PRODUCT_PART_ON_HOPPER = 0.629

#: Latency of a load that goes to device memory, nanoseconds: measured on an H200 (a chain through 2 GiB, so with
#: misses of the page tables).
COLD_LATENCY_NS = 343.0

#: Part of the streaming bandwidth that remains where so many contiguous bytes are fetched at a time: by a program
#: on its own, and where its neighbours fetch what lies beside it. Measured on an H200 (rows 16 KiB apart).
RUN_PARTS = ((32.0, 0.49), (64.0, 0.62), (128.0, 0.87), (256.0, 0.95), (512.0, 1.0))
RUN_PARTS_BESIDE = ((32.0, 0.65), (64.0, 0.81), (128.0, 0.95), (256.0, 1.0), (512.0, 1.0))
