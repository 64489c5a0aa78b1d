"""The checks of a candidate's honesty and of its sandbox, as tables."""

from __future__ import annotations

from tilewright.gate.checks.check import Check
from tilewright.values.verdict import Severity

_E, _L, _N = Severity.ERROR, Severity.LIMIT, Severity.NOTE

_FIELD_GUIDE = (
    "Wafer, A Field Guide to Reward Hacking in AI Kernel Generation (2026), wafer.ai/blog/reward-hacks-field-guide"
)
_DEFENSES = (
    "DeepReinforce, Hacks and Defenses in Automatic GPU Kernel Generation, deep-reinforce.com/defense_kernel_hack"
)
_ADVERSARIAL = "ScalingIntelligence/KernelBench pull request 82, Eval Unit Tests for Adversarial Eval Testing"
_SKIP = "gpu-mode/reference-kernels pull request 104, Fix batch-and-skip benchmark exploit via per-call timing"

#: In the order in which they are looked at.
HONESTY_CHECKS: tuple[Check, ...] = (
    Check(
        "honesty.patched", _E,
        "Functions of torch, Triton, Python's clocks and this tool are the same objects before and after a candidate "
        "was loaded and run.",
        "Replaced comparisons, timers and launchers make anything look right and fast. Outputs are judged in another "
        "process, so that it is to no effect; this names it. What is replaced and put back in between is not seen.",
        f"{_DEFENSES} (monkey-patched timing); {_FIELD_GUIDE}",
    ),
    Check(
        "honesty.watches", _E,
        "Code that runs for a user looks at nothing but inputs, parameters and the device: not at its module's name or "
        "file, the call stack, the process, the clock, chance, other modules, or whether kernels are interpreted. A "
        "setting of its own in the environment is a limit.",
        "What looks can tell the judge from the user, and answer each as it likes. Names and surroundings of the runs "
        "here are those of a script; this names the attempt.",
        f"{_DEFENSES}; METR, Recent frontier models are reward hacking (2025): timers and stack frames",
    ),
    Check(
        "honesty.world", _E,
        "An import and a call leave torch as they found it: operators of others, flags of precision and determinism, "
        "default types and devices, grad mode, threads, modes and hooks; nothing reaches for the device's own limits.",
        "Whoever slows the library down, or sets TF32 for the whole process, changes what everybody else computes, and "
        "what is measured beside it. Operators of its own namespace are its own affair.",
        f"{_DEFENSES}; PyTorch, torch.library; CUDA, cudaDeviceSetLimit and the persisting part of L2",
    ),
    Check(
        "honesty.graph", _L,
        "Says where captured CUDA graphs are replayed, and no GPU is there to try it on other inputs.",
        "A graph replays addresses: what it does for new inputs shows on a GPU alone.",
        "PyTorch, CUDA graphs: inputs must be copied into the tensors that were captured",
    ),
    Check(
        "honesty.inputs", _E,
        "The inputs hold the same bits after a forward pass as before.",
        "Whoever calls a module goes on using its inputs; a harness that runs the reference afterwards on changed "
        "inputs finds both wrong alike, and says that they agree.",
        _ADVERSARIAL,
    ),
    Check(
        "honesty.parameters", _E,
        "Parameters and buffers hold the same bits after a forward pass; an update in place, and new memory behind a "
        "parameter, are seen by the next call.",
        "A weight that was repacked once and kept is stale after an optimiser's step or load_state_dict. PyTorch "
        "counts changes in place (`Tensor._version`), so a candidate that keeps something can ask.",
        "PyTorch, torch.autograd.graph.increment_version; pytorch/pytorch pull request 18223",
    ),
    Check(
        "honesty.data", _N,
        "Says where values written through `parameter.data` are not seen by the next call.",
        "PyTorch does not count such changes, so what was kept cannot tell that it is stale: no candidate that keeps "
        "anything can do better, and its user must know.",
        "pytorch/pytorch pull request 131403, mutations on .data should be invisible to autograd",
    ),
    Check(
        "honesty.cache", _E,
        "Other values in the same input tensors (also where torch counts no new version, or corners, extremes and sum "
        "stay the same), the same values in new tensors, another instance in between, and hundreds of calls do not "
        "bring back an earlier answer. What counts the calls is also set forward.",
        "Results kept by address, shape or identity pass every test that calls once, and every benchmark that calls "
        "often.",
        f"{_SKIP}; {_FIELD_GUIDE} (caching)",
    ),
    Check(
        "honesty.outputs", _E,
        "What an earlier call returned is not changed by a later one; outputs share no memory with each other, with "
        "inputs or with parameters where the reference's do not; the caller may write into them.",
        "A buffer that is returned again and again, or twice, turns two results into one.",
        "PyTorch, CUDA graphs: static outputs are overwritten by the next replay, and must be copied",
    ),
    Check(
        "honesty.type", _E,
        "What is returned are plain tensors.",
        "A subclass of Tensor can put the work off until somebody looks, which is after the clock was stopped.",
        f"{_DEFENSES} (lazy evaluation)",
    ),
    Check(
        "honesty.repeat", _E,
        "The same call on the same tensors gives the same bits; where floats are added atomically, a result that is "
        "still allowed.",
        "An answer that changes from call to call was computed from something else than the inputs: state, time, "
        "randomness, memory that nobody wrote, or a race.",
        "karpathy/llm.c pull request 851: a kernel that drifts after the checked calls; PyTorch, Reproducibility",
    ),
    Check(
        "honesty.unwritten", _E,
        "With another value in memory that nobody has written (and malloc's memory filled), the output keeps its bits.",
        "Fresh memory often holds the right answer: an allocator hands out what the reference has just freed. A NaN "
        "there can be dropped by a maximum or a comparison, so a second value is tried.",
        f"{_ADVERSARIAL} (reused memory); Sakana AI, The AI CUDA Engineer, limitations (2025)",
    ),
    Check(
        "honesty.threads", _E,
        "Threads that still run when a forward pass returns are waited for; the output must not change meanwhile.",
        "Work on another thread is not in the time that was measured, and not in the result that was returned.",
        f"{_DEFENSES} (thread injection)",
    ),
    Check(
        "honesty.streams", _E,
        "The caller's stream waits for work on other streams before a forward pass returns.",
        "Events on the caller's stream do not see it, so it costs no time; and the next kernel reads what is not yet "
        "written. On a CPU the waits are followed by a model of streams and events, on a GPU by what changes late.",
        f"{_ADVERSARIAL} (non-default stream); {_DEFENSES} (stream injection)",
    ),
    Check(
        "honesty.decoy", _E,
        "In the interpreter everything that kernels store is replaced by constants: the output must not stay right. A "
        "kernel that multiplies for nothing while PyTorch makes the product is a decoy too.",
        "A kernel beside the library's call satisfies whoever looks for a kernel, or counts launches. What a candidate "
        "reports of itself is not asked.",
        f"{_FIELD_GUIDE} (calling the library)",
    ),
    Check(
        "honesty.passed", _E,
        "No output equals, on all inputs that are tried, what one of PyTorch's operations computed before the kernels "
        "that store it: as a whole, or for the most part.",
        "A kernel that copies, adds zero, or does the first row makes the library's work look like its own. A product "
        "that is left to the library, and that kernels go on from, is named and allowed (`honesty.library`).",
        f"{_FIELD_GUIDE} (calling the library)",
    ),
    Check(
        "honesty.unused", _N,
        "Names launches whose results reach no output.",
        "They cost time; where nothing but time is lost, it is for the reader to know.",
        _FIELD_GUIDE,
    ),
    Check(
        "honesty.library", _E,
        "Names matrix products that are left to PyTorch; rejects where the candidate's own plan says that none is.",
        "It is often the better choice, and it must not look like a kernel's.",
        f"{_FIELD_GUIDE} (benign shortcuts)",
    ),
    Check(
        "honesty.failure", _E,
        "Each launch is made to fail in its turn: the candidate raises, or launches another kernel instead.",
        "An exception that is swallowed leaves memory as it was, or hides that the library computed the answer.",
        f"{_DEFENSES}; Triton, triton.runtime.errors.OutOfResources",
    ),
    Check(
        "honesty.skipped", _N,
        "Names experiments that were not made for want of time.",
        "What was not tried must not look like what was found in order.",
        "this tool's own rule",
    ),
)  # fmt: skip

SANDBOX_CHECKS: tuple[Check, ...] = (
    Check(
        "sandbox.crash", _E,
        "The candidate's process lives until it has answered.",
        "A crash, os._exit or a kill is no answer.",
        "signal(7); Python, os._exit",
    ),
    Check(
        "sandbox.timeout", _E,
        "The candidate ends by its deadline, does not stand still for long, and brings a result for the processor time "
        "that it uses.",
        "A kernel that hangs in one case hangs its user.",
        "proc(5), the times in /proc/PID/stat",
    ),
    Check(
        "sandbox.memory", _E,
        "The candidate stays within many times the memory of the task's own tensors.",
        "What needs more does not fit beside a model.",
        "getrlimit(2), RLIMIT_DATA; ScalingIntelligence/KernelBench issue 146 (out of memory in the check itself)",
    ),
    Check(
        "sandbox.processes", _E,
        "The candidate starts no more processes and threads than allowed.",
        "Kernels need none; compilers need a few.",
        "pid_namespaces(7)",
    ),
    Check(
        "sandbox.files", _E,
        "The candidate writes no more and no larger files than allowed, and none outside of its own folder.",
        "A full disk stops everybody else on the machine.",
        "landlock(7); setrlimit(2), RLIMIT_FSIZE",
    ),
    Check(
        "sandbox.garbage", _E,
        "What comes back from the candidate's process is what the wrapper writes there, and no more than allowed.",
        "It is read as data, never unpickled: unpickling runs code.",
        "Python, pickle (its warning); safetensors, format",
    ),
    Check(
        "sandbox.unprotected", _N,
        "Says which protection this system does not offer.",
        "A user must know that a candidate could reach the network, or files that are not its own.",
        "landlock(7); network_namespaces(7)",
    ),
)  # fmt: skip
