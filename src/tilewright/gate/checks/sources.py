"""Where the reasons of the checks are known from: literature, issue trackers, manuals. For `tilewright explain`."""

from __future__ import annotations

from collections.abc import Mapping

_DOCUMENTS = "the documents' own output rules and API constraints"
_STAGES = "the documents' optimisation stages and their tuning spaces"
_TRITON = "Triton, python-api"
_KB165 = "ScalingIntelligence/KernelBench issue 165, Correctness check can be passed by returning zeros"
_INPUTS = "Sarkar, Test-Input Generation for Tensor Programs: What Actually Finds Kernel Bugs, arXiv:2606.27396"
_HIGHAM = "Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition (SIAM 2002)"
_CUDA = "NVIDIA, CUDA C++ Programming Guide"
_SANITIZER = "NVIDIA, Compute Sanitizer"

SOURCES: Mapping[str, str] = {
    "contract.parse": "Python, ast; KernelBench (arXiv:2502.10517): candidates are classes named ModelNew",
    "contract.order": _DOCUMENTS,
    "contract.imports": _DOCUMENTS,
    "contract.forbidden": _DOCUMENTS,
    "contract.unknown_name": f"{_TRITON}/triton.language",
    "contract.test_code": _DOCUMENTS,
    "contract.jit": f"{_TRITON}/triton.jit",
    "contract.power_of_two": f"{_TRITON}/triton.language.arange: a range is a power of two",
    "contract.arange_runtime": f"{_TRITON}/triton.language.arange: its ends are compile-time constants",
    "contract.grid": f"{_CUDA}, kernel launch: three grid axes, each at least 1",
    "contract.axis": f"{_TRITON}/triton.language.program_id: axis 0, 1 or 2",
    "contract.jump_in_loop": f"{_DOCUMENTS}; Triton, compiler/code_generator.py",
    "contract.tensor_index": f"{_TRITON}/triton.language.tensor: indexing by None and full slices alone",
    "contract.mask_shape": f"{_TRITON}/triton.language.load: the mask is broadcast to the pointers' shape",
    "contract.one_store": _DOCUMENTS,
    "contract.intermediate": f"{_DOCUMENTS} (intermediate results are never stored)",
    "contract.stage_warps": _STAGES,
    "contract.stage_stages": _STAGES,
    "contract.stage_configs": _STAGES,
    "contract.stage_baseline": _STAGES,
    "record.run": "PyTorch, meta device: tensors without data",
    "record.shapes": "PyTorch, meta device: values are not known there",
    "compile.error": "Triton, triton.compile; its wheel's ptxas",
    "compile.shared": f"{_CUDA}, technical specifications by compute capability; triton.runtime.errors.OutOfResources",
    "compile.threads": f"{_CUDA}, technical specifications by compute capability",
    "compile.scratch": "Triton, triton.set_allocator; backends/nvidia/driver.py, global scratch of a launch",
    "compile.spill": f"{_CUDA}, local memory; cuobjdump --dump-resource-usage",
    "correctness.reference": "this tool's own rule",
    "correctness.raises": f"{_INPUTS} (boundary shapes)",
    "correctness.value": f"{_KB165}; {_HIGHAM}; Sarkar, The correctness illusion in LLM-generated GPU kernels, "
    "arXiv:2606.20128",
    "correctness.not_finite": "IEEE 754-2019, propagation of NaN; Triton, tl.maximum's propagate_nan",
    "correctness.not_interpretable": "NVIDIA, PTX ISA; Triton, TRITON_INTERPRET: no inline assembly, no libraries",
    "correctness.shape": "PyTorch, broadcasting semantics; torch.testing.assert_close",
    "correctness.unjudged": "this tool's own rule",
    "correctness.device": "PyTorch, torch.testing.assert_close (check_device)",
    "correctness.stride": "PyTorch, torch.testing.assert_close (check_stride); channels last memory format",
    "correctness.parameters": "PyTorch, Module.load_state_dict (strict)",
    "correctness.gradient": "PyTorch, torch.autograd.Function; torch.autograd.gradcheck",
    "correctness.mode": "PyTorch, Module.train and Module.eval; BatchNorm's batch and running statistics",
    "correctness.no_kernel": "Wafer, A Field Guide to Reward Hacking in AI Kernel Generation (2026): benign shortcuts",
    "correctness.autotune": f"{_TRITON}/triton.autotune: reset_to_zero and restore_value",
    "coverage.unread": "AI-Hypercomputer/accelerator-agents pull request 50: work that is left out and not noticed",
    "coverage.unwritten": "ScalingIntelligence/KernelBench pull request 82: torch.empty holds the reference's output",
    "coverage.outside": f"triton-lang/triton issue 10336, out-of-bounds read through a view; {_SANITIZER}, memcheck",
    "coverage.race": f"{_SANITIZER}, racecheck; {_CUDA}, memory consistency",
    "coverage.barrier": f"{_SANITIZER}, racecheck; {_CUDA}, synchronization functions; Triton, "
    "triton.language.debug_barrier",
    "coverage.twice": f"{_SANITIZER}, racecheck",
    "cost.redone": "PyTorch, torch._inductor.config.freezing: what depends on weights alone is computed once",
    "cost.interpreter": "Triton, TRITON_INTERPRET",
    "inputs.insensitive": "AI-Hypercomputer/accelerator-agents pull request 50, Fix no-op exploit in 19 KernelBench "
    "baselines; METR, Measuring Automated Kernel Engineering (2025)",
    "inputs.skipped": "this tool's own rule",
}
