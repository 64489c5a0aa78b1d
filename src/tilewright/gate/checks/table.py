"""Every check of the gate, as a table: its name, what it does, and why it exists."""

from __future__ import annotations

from tilewright.gate.checks.check import Check as Check
from tilewright.gate.checks.honesty_checks import HONESTY_CHECKS, SANDBOX_CHECKS
from tilewright.values.verdict import Severity

_E, _L, _N = Severity.ERROR, Severity.LIMIT, Severity.NOTE

#: In the order in which the gate runs them.
CHECKS: tuple[Check, ...] = (
    Check(
        "contract.parse", _E,
        "The source is one Python file that parses and defines class ModelNew.",
        "Nothing else can be checked of code that does not parse.",
    ),
    Check(
        "contract.order", _E,
        "Parts stand in the order: imports, kernels, wrappers, class ModelNew; constants may stand between.",
        "The documents' output rule 1; readers and tools that splice kernels rely on it.",
        form=True,
    ),
    Check(
        "contract.imports", _E,
        "torch, torch.nn, triton and triton.language are imported; nothing beyond them and the standard library is.",
        "The documents' output rules name the imports; a candidate must run where only torch and triton are installed.",
        form=True,
    ),
    Check(
        "contract.forbidden", _E,
        "No function that the document forbids is named (tl.tanh, tl.sigmoid), also not through an alias or getattr.",
        "The documents' API constraints; where a document names none, what the installed Triton has is free to use.",
    ),
    Check(
        "contract.unknown_name", _E,
        "Every name taken from triton.language exists in the installed Triton.",
        "Models invent functions; the compiler says so only when the kernel is first launched.",
    ),
    Check(
        "contract.test_code", _E,
        "No `if __name__`, get_inputs, get_init_inputs, test function, or call at the top level.",
        "The documents' output rule 2; code at the top level runs on import, also in production.",
        form=True,
    ),
    Check(
        "contract.jit", _E,
        "Every function that uses tl.program_id, tl.load or tl.store is decorated with @triton.jit.",
        "Output rule: without it, the launch is a TypeError.",
    ),
    Check(
        "contract.power_of_two", _E,
        "Ranges of tl.arange and tile sizes are powers of two: literals, configurations, and values at the launches.",
        "Triton's blocks are powers of two; anything else fails to compile.",
    ),
    Check(
        "contract.arange_runtime", _L,
        "The bounds of tl.arange are compile-time constants.",
        "A kernel with `tl.arange(0, n)` over a run-time n cannot compile, whatever n is: its branch is dead.",
    ),
    Check(
        "contract.grid", _E,
        "Each launch has between one and three grid axes, each positive, and within what a GPU takes.",
        "A grid of zero programs writes nothing, and the output is what memory held before; one of more than 65,535 "
        "along axis 1 or 2, or 2^31 - 1 along axis 0, is refused.",
    ),
    Check(
        "contract.axis", _E,
        "tl.program_id and tl.num_programs take axis 0, 1 or 2.",
        "There are three grid axes.",
    ),
    Check(
        "contract.jump_in_loop", _E,
        "No break, continue or return inside a loop of a kernel.",
        "Triton's language has no such jumps; masks say the same.",
    ),
    Check(
        "contract.tensor_index", _E,
        "No indexing of a tensor with a loop variable (`x[:, i]`).",
        "A block lives in registers across threads: it has no element access.",
    ),
    Check(
        "contract.mask_shape", _E,
        "The mask of tl.load and tl.store has as many dimensions as the pointers.",
        "Triton broadcasts dimensions of size 1, not missing ones: a mask of another rank does not compile.",
    ),
    Check(
        "contract.one_store", _E,
        "One store for each output; disjoint tiles of one output count as one. Strict: one literal tl.store.",
        "Fusion's gain is the intermediate stores that it removes: the documents' stage rules.",
    ),
    Check(
        "contract.intermediate", _E,
        "No memory that a kernel writes is read by a later step, unless it is declared scratch.",
        "The stage rule `tl.store() for intermediate results - NEVER`.",
        form=True,
    ),
    Check(
        "contract.stage_warps", _E,
        "num_warps of every configuration and launch is one that the stage permits.",
        "The stage's rules: a document's tuning space is part of the task.",
        form=True,
    ),
    Check(
        "contract.stage_stages", _E,
        "num_stages of every configuration and launch is one that the stage permits.",
        "The stage's rules: a document's tuning space is part of the task.",
        form=True,
    ),
    Check(
        "contract.stage_configs", _E,
        "An autotune list has at most as many configurations as the stage permits.",
        "Each configuration is compiled and timed on a user's first call.",
        form=True,
    ),
    Check(
        "contract.stage_baseline", _E,
        "An autotune list holds the stage's conservative baseline.",
        "The stage's rules: there must be a configuration to fall back to.",
        form=True,
    ),
    Check(
        "record.run", _E,
        "The candidate's forward pass can be recorded on tensors without data.",
        "What cannot even be built and called on shapes does not run.",
    ),
    Check(
        "record.shapes", _N,
        "The candidate's launches depend on shapes alone.",
        "Where they depend on data, registers and shared memory can be told only at other shapes.",
    ),
    Check(
        "compile.error", _E,
        "Every launch compiles for the target, under every configuration.",
        "The interpreter accepts what the compiler refuses; the wheel's own ptxas needs no GPU.",
    ),
    Check(
        "compile.shared", _E,
        "No kernel needs more shared memory than a block of the target has.",
        "Such a launch fails with OutOfResources on the GPU only.",
    ),
    Check(
        "compile.threads", _E,
        "No kernel asks for more threads than a block of the target has.",
        "Such a launch fails on the GPU only.",
    ),
    Check(
        "compile.scratch", _E,
        "An allocator is set before every launch of a kernel that needs scratch memory of Triton's own.",
        "Descriptors that a kernel makes for sm_90 and newer lie in global memory, for which Triton asks an allocator; "
        "its default one refuses, and the launch fails on the GPU only.",
    ),
    Check(
        "compile.spill", _N,
        "Says where registers spill to local memory.",
        "Spills cost bandwidth; they are no error.",
    ),
    Check(
        "correctness.reference", _E,
        "The reference itself runs on the probes.",
        "Without it there is nothing to compare with.",
    ),
    Check(
        "correctness.raises", _E,
        "The candidate runs on every probe that the reference accepts.",
        "A kernel that raises at another size is right for some sizes only.",
    ),
    Check(
        "correctness.value", _E,
        "Outputs lie within a multiple of the reference's own error of the float64 oracle, norm-wise and element-wise.",
        "A constant tolerance passes kernels that do not do the work wherever outputs are small "
        "(KernelBench issue 165: zeros pass on 4 of 60 problems at 1e-2); a multiple of its error does not.",
    ),
    Check(
        "correctness.not_finite", _E,
        "Infinities and NaN stand where the reference has them, and nowhere else.",
        "An overflow that a clamp swallows, or a NaN that a maximum drops, is a wrong value that looks right.",
    ),
    Check(
        "correctness.not_interpretable", _E,
        "Every operation of the kernels has a plain twin, so that they can be run without a GPU.",
        "Inline PTX and library functions are open ended: what is not known here is named with its line, and is not "
        "taken for wrong. On a GPU nothing is interpreted to judge values.",
    ),
    Check(
        "correctness.shape", _E,
        "Number, nesting, shape and data type of the outputs are the reference's.",
        "Broadcasting hides a wrong shape in a naive comparison.",
    ),
    Check(
        "correctness.unjudged", _E,
        "Outputs are of types that can be compared: whole numbers, booleans, floating-point and complex ones.",
        "What cannot be compared is not shown wrong, but not shown right either; the message names the types.",
    ),
    Check(
        "correctness.device", _E,
        "Outputs lie on the device of the inputs.",
        "A result left on the host is not the module that was asked for.",
    ),
    Check(
        "correctness.stride", _E,
        "Strides of the outputs are of the reference's kind (contiguous, channels last, ...), or contiguous.",
        "A caller that takes a `view` of the result fails on any other layout; a contiguous one serves everybody.",
    ),
    Check(
        "correctness.parameters", _E,
        "Every parameter of the reference has its counterpart in the candidate, by name and shape (in a document's "
        "code, by shape); the candidate has none of its own. Other persistent buffers are a limit.",
        "A drop-in module takes the same state_dict; parameters of its own would be random.",
    ),
    Check(
        "correctness.gradient", _E,
        "An output that says that it carries gradients has all of the reference's: an error where the candidate has a "
        "backward pass of its own, a limit where a kernel stands beside torch's graph. No gradients at all: a note.",
        "Training with a gradient that silently is zero, or another one, fails weeks later; a missing one raises.",
    ),
    Check(
        "correctness.mode", _L,
        "A candidate is judged in the mode in which it is built, unless a document asks for eval mode, or its own "
        "code tells the modes apart; the other mode is probed too. Buffers change where the reference changes them.",
        "The usual harness calls no `eval()`: a batch norm then takes the batch's own statistics. A module that is "
        "right in one mode can be wrong in the other, and the verdict must say which.",
    ),
    Check(
        "correctness.no_kernel", _E,
        "The candidate launches at least one Triton kernel of its own on the task's own configuration.",
        "A run that launches none proves nothing about the kernels, and is no faster than PyTorch.",
    ),
    Check(
        "correctness.autotune", _E,
        "Outputs are right on a first call too, on which the autotuner tries every configuration on the same tensors.",
        "A sum that trials have added to, or a buffer that they changed in place, is wrong once, for each new key: "
        "reset_to_zero, restore_value and hooks are there for that.",
    ),
    Check(
        "coverage.unread", _E,
        "Every element that the reference's output depends on is read: of inputs, parameters and intermediate tensors.",
        "A kernel that reads 32 of 256 rows is right wherever the output is constant; the addresses show it, and "
        "changing the unread elements in the reference shows that they matter.",
    ),
    Check(
        "coverage.unwritten", _E,
        "Every element of every output is written by somebody.",
        "What nobody wrote is what memory held before: often the right answer of an earlier run.",
    ),
    Check(
        "coverage.outside", _E,
        "No load or store leaves the tensor whose pointer it was made from, not even where the value is thrown away.",
        "Masked-out lanes are free, unmasked ones beyond the end fault on a page boundary, or return somebody's data.",
    ),
    Check(
        "coverage.race", _E,
        "No two programs touch one element in an order that nothing fixes, one of them writing another value.",
        "The interpreter, and a small GPU run, happen to take one order; a full GPU takes another each time.",
    ),
    Check(
        "coverage.barrier", _E,
        "No thread of a program loads what another one stored, or stores over what another one loads, with no barrier "
        "in between.",
        "Warps run apart until they meet: what one wrote to a scratch in global memory another may read before or "
        "after. By addresses, so that a second argument on the same memory or a helper function hides nothing.",
    ),
    Check(
        "coverage.twice", _N,
        "Says where several programs store the same value to the same element.",
        "It is harmless, and costs its bytes again.",
    ),
    Check(
        "cost.redone", _N,
        "Says which operations on parameters alone are done again on every call.",
        "Folding and transposing weights once is enough until they change.",
    ),
    Check(
        "cost.interpreter", _E,
        "At least one probe can be interpreted in the time allowed.",
        "Without a GPU, kernels run in Triton's interpreter: one that needs hours there is not shown wrong, but not "
        "shown right either.",
    ),
    Check(
        "inputs.insensitive", _N,
        "Measures whether the reference's output answers to the task's own inputs at all.",
        "Where the output is constant, any kernel passes on those inputs; 15 of KernelBench's level 2 are like that.",
    ),
    Check(
        "inputs.skipped", _N,
        "Names the probes that were too dear to run.",
        "A probe that was not run must not look like one that passed.",
    ),
    *HONESTY_CHECKS,
    *SANDBOX_CHECKS,
)  # fmt: skip

BY_NAME = {check.name: check for check in CHECKS}
