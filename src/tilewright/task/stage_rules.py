"""A stage's rules as data: read out of a document's words, written in words of our own, defaults for each stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from tilewright.errors import DocumentError, SourceLocation, TilewrightError
from tilewright.task.stage import Stage, StageRules

#: Stage -> its focus, as the documents word it (the first two are ours).
FOCUS: Mapping[Stage, str] = {
    Stage.GRID_AND_PARALLEL: "Grid and parallel decomposition.",
    Stage.BLOCK_TILING: "Block tiling.",
    Stage.MEMORY_ACCESS: "Memory pattern for fused operations.",
    Stage.ADVANCED_MEMORY: "Fine-tuning fused kernel parameters.",
    Stage.MEMORY_AND_TUNING: "Memory pattern and parameter tuning for fused operations.",
}

_LOW_PRESSURE = "register pressure LOW (regs < 96, no spill)"
_HIGH_PRESSURE = "register pressure HIGH (regs > 128 or occupancy_limit_registers)"
_MANY_LOADS = "multi-input fusion (3+ distinct loads)"

#: The tuning conditions, as the documents state them.
TUNING_CONDITIONS: tuple[tuple[str, str], ...] = (
    (_LOW_PRESSURE, "try num_warps=8 for a kernel that computation binds"),
    (_LOW_PRESSURE, "num_stages=3 may hide the loads' latency"),
    (_HIGH_PRESSURE, "use num_warps=4"),
    (_HIGH_PRESSURE, "keep num_stages=2"),
    (_MANY_LOADS, "prefer num_stages=2"),
    (_MANY_LOADS, "num_warps=4 is often better than 8"),
)

#: What each stage may change and try, unless a document says otherwise.
_DEFAULTS: Mapping[Stage, StageRules] = {
    # One store per output from the start: a later stage could not take an intermediate store back.
    Stage.GRID_AND_PARALLEL: StageRules(
        stage=Stage.GRID_AND_PARALLEL,
        focus=FOCUS[Stage.GRID_AND_PARALLEL],
        one_store_per_output=True,
        may_retile=False,
        conditions=(
            ("the grid has fewer programs than the GPU has SMs", "split the work further, reductions included"),
            ("the last wave of programs is less than half full", "change the programs' size or make them persistent"),
            ("two grid axes read the same operand", "order the programs so that neighbours share it in L2"),
        ),
    ),
    Stage.BLOCK_TILING: StageRules(
        stage=Stage.BLOCK_TILING,
        focus=FOCUS[Stage.BLOCK_TILING],
        num_warps=(2, 4, 8),
        max_autotune_configs=8,
        conservative_baseline=(4, 2),
        one_store_per_output=True,
        conditions=(
            ("the kernel spills registers", "halve the largest tile"),
            ("shared memory limits the occupancy", "make the reduction's tile smaller"),
            ("the tensor cores are used", "keep every tile at 16 or more in each dimension"),
        ),
    ),
    Stage.MEMORY_ACCESS: StageRules(
        stage=Stage.MEMORY_ACCESS,
        focus=FOCUS[Stage.MEMORY_ACCESS],
        one_store_per_output=True,
        start_num_stages=2,
    ),
    Stage.ADVANCED_MEMORY: StageRules(
        stage=Stage.ADVANCED_MEMORY,
        focus=FOCUS[Stage.ADVANCED_MEMORY],
        num_warps=(4, 8),
        num_stages=(2, 3),
        max_autotune_configs=3,
        conservative_baseline=(4, 2),
        may_change_grid=False,
        may_retile=False,
        conditions=TUNING_CONDITIONS,
    ),
    Stage.MEMORY_AND_TUNING: StageRules(
        stage=Stage.MEMORY_AND_TUNING,
        focus=FOCUS[Stage.MEMORY_AND_TUNING],
        num_warps=(4, 8),
        num_stages=(2, 3),
        max_autotune_configs=4,
        conservative_baseline=(4, 2),
        one_store_per_output=True,
        conditions=TUNING_CONDITIONS,
    ),
}


def default_rules(stage: Stage) -> StageRules:
    """The rules of a stage where no document gives them."""
    return _DEFAULTS[stage]


def parse_stage(name: str) -> Stage:
    """The stage of that name (`memory_access`, hyphens and case aside).

    Raises:
        TilewrightError: there is none; the message lists them.
    """
    try:
        return Stage(name.strip().lower().replace("-", "_").replace(" ", "_"))
    except ValueError:
        raise TilewrightError(f"unknown stage {name[:60]!r}", hint=f"the stages are {', '.join(Stage)}") from None


def rules_for(stage: Stage, given: StageRules | None) -> StageRules:
    """The rules of one stage of a run, where a document gives `given`.

    The document's rules bind its own stage; those of `memory_and_tuning` bind both stages that it joins:
    what they say of stores the first, what they say of parameters the second.
    """
    default = default_rules(stage)
    if given is None:
        return default
    if given.stage is stage:
        return given
    if given.stage is not Stage.MEMORY_AND_TUNING:
        return default
    if stage is Stage.MEMORY_ACCESS:
        return replace(
            default,
            one_store_per_output=given.one_store_per_output,
            start_num_stages=given.start_num_stages or default.start_num_stages,
            min_gain_percent=given.min_gain_percent,
        )
    if stage is Stage.ADVANCED_MEMORY:
        return replace(
            default,
            num_warps=given.num_warps,
            num_stages=given.num_stages,
            max_autotune_configs=given.max_autotune_configs,
            conservative_baseline=given.conservative_baseline,
            min_gain_percent=given.min_gain_percent,
            conditions=given.conditions,
        )
    return default


# No pattern may try a run of blanks from each of its places: a hostile text would take hours.
_FOCUS_LINE = re.compile(r"^[ \t]*Focus[ \t]*:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_SET = r"[^\S\n]*(?:∈|in\b|=|:)[^\S\n]*[{(\[]([\d, ]*)[})\]]"
_MAX_CONFIGS = re.compile(r"\bmax(?:imum)?\s+(?:of\s+)?(?:\d+\s*[-–]\s*)?(\d+)\s+config", re.IGNORECASE)
_BASELINE = re.compile(r"baseline\s*\(\s*num_warps\s*=\s*(\d+)\s*,\s*num_stages\s*=\s*(\d+)\s*\)", re.IGNORECASE)
_GAIN = re.compile(r"\bgain\s*<\s*(\d{1,9}(?:\.\d{1,9})?)\s*%", re.IGNORECASE)
_START_STAGES = re.compile(r"\bnum_stages\s*:\s*start\s+(?:with|at)\s+(\d+)", re.IGNORECASE)
_ONE_STORE = re.compile(
    r"tl\.store\(\)\s+for\s+(?:an\s+)?intermediate|single\s+tl\.store|one\s+tl\.store", re.IGNORECASE
)
_STORES_FREE = re.compile(r"^[ \t]*-[ \t]*tl\.store\(\) may be used freely", re.IGNORECASE | re.MULTILINE)
_GRID_FIXED = re.compile(r"^[ \t]*-[ \t]*The launch grid stays", re.IGNORECASE | re.MULTILINE)
_GRID_FREE = re.compile(r"^[ \t]*-[ \t]*The launch grid may change", re.IGNORECASE | re.MULTILINE)
_TILES_FIXED = re.compile(r"^[ \t]*-[ \t]*Tile sizes stay", re.IGNORECASE | re.MULTILINE)
_TILES_FREE = re.compile(r"^[ \t]*-[ \t]*Tile sizes may change", re.IGNORECASE | re.MULTILINE)
_IF = re.compile(r"^IF\s+(\S.*)$")
_ITEM = re.compile(r"^\s*[-*•]\s+(\S.*)$")

#: Words of a focus -> the stage; the first that matches whole counts.
_FOCUS_WORDS: tuple[tuple[tuple[str, ...], Stage], ...] = (
    (("memory pattern", "tuning"), Stage.MEMORY_AND_TUNING),
    (("memory pattern",), Stage.MEMORY_ACCESS),
    (("memory access",), Stage.MEMORY_ACCESS),
    (("tuning", "parameter"), Stage.ADVANCED_MEMORY),
    (("advanced memory",), Stage.ADVANCED_MEMORY),
    (("tiling",), Stage.BLOCK_TILING),
    (("grid",), Stage.GRID_AND_PARALLEL),
)


def stage_of_focus(focus: str) -> Stage | None:
    """The stage that a document's focus names; None where it is none that we know."""
    words = re.sub(r"[\s_]+", " ", focus.lower())
    for needed, stage in _FOCUS_WORDS:
        if all(word in words for word in needed):
            return stage
    return None


def read_rules(text: str, *, path: str, first_line: int, stage: Stage | None = None) -> StageRules:
    """The rules that a stage section states.

    Args:
        text: the section, line endings as `\\n`.
        path: the document, for messages.
        first_line: line of the document where the section starts.
        stage: in the place of a focus that is missing or unknown; its default rules hold then.

    Raises:
        DocumentError: no focus, or one that names no stage that we know.
    """
    focus = _FOCUS_LINE.search(text)
    hint = f"--stage NAME says which; the stages are {', '.join(Stage)}"
    if focus is None and stage is None:
        where = SourceLocation(path, first_line)
        raise DocumentError("the document names no stage: no line `Focus: ...`", where=where, hint=hint)
    named = stage_of_focus(focus[1].rstrip()) if focus else None
    if focus is not None and named is None and stage is None:
        where = SourceLocation(path, first_line + text.count("\n", 0, focus.start(1)))
        raise DocumentError(f"unknown stage focus {focus[1][:80]!r}", where=where, hint=hint)
    if named is None:
        assert stage is not None
        return replace(default_rules(stage), text=text)
    return _read_fields(named, focus[1].rstrip() if focus else FOCUS[named], text)


def _read_fields(stage: Stage, focus: str, text: str) -> StageRules:
    """The fields that the text of a stage's section states."""
    default = default_rules(stage)
    baseline = _BASELINE.search(text)
    gain = _GAIN.search(text)
    return StageRules(
        stage=stage,
        focus=focus,
        num_warps=_read_set("num_warps", text),
        num_stages=_read_set("num_stages", text),
        max_autotune_configs=_read_int(_MAX_CONFIGS, text),
        conservative_baseline=(_small_int(baseline[1]), _small_int(baseline[2])) if baseline else None,
        one_store_per_output=_ONE_STORE.search(text) is not None and _STORES_FREE.search(text) is None,
        min_gain_percent=float(gain[1]) if gain else default.min_gain_percent,
        start_num_stages=_read_int(_START_STAGES, text),
        may_change_grid=_read_switch(_GRID_FREE, _GRID_FIXED, text, default.may_change_grid),
        may_retile=_read_switch(_TILES_FREE, _TILES_FIXED, text, default.may_retile),
        conditions=_read_conditions(text),
        text=text,
    )


def _read_set(name: str, text: str) -> tuple[int, ...]:
    match = re.search(rf"\b{name}{_SET}", text)
    if match is None:
        return ()
    return tuple(_small_int(item) for item in match[1].split(",") if item.strip())


def _read_int(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return _small_int(match[1]) if match else None


def _small_int(digits: str) -> int:
    """An integer of at most nine digits: no rule means more, and Python refuses to convert thousands."""
    return int(digits.strip().replace(" ", "")[:9])


def _read_switch(on: re.Pattern[str], off: re.Pattern[str], text: str, default: bool) -> bool:
    if off.search(text):
        return False
    return True if on.search(text) else default


def _read_conditions(text: str) -> tuple[tuple[str, str], ...]:
    """(when, advice) for each item under an `IF ...:` line; a blank line or another line ends the list."""
    found = []
    when: str | None = None
    for line in map(str.rstrip, text.split("\n")):
        start = _IF.match(line)
        if start:
            when = start[1].removesuffix(":").rstrip()
            continue
        item = _ITEM.match(line)
        if item and when is not None:
            found.append((when, item[1]))
        elif not item:
            when = None
    return tuple(found)


def write_rules(rules: StageRules) -> str:
    r"""The rules in words of our own; `read_rules` reads the same fields back. Ends with `\n`."""
    lines = [f"Focus: {rules.focus}", "", "What this step may change:"]
    lines.append("- The launch grid may change." if rules.may_change_grid else "- The launch grid stays as it is.")
    lines.append("- Tile sizes may change." if rules.may_retile else "- Tile sizes stay as they are.")
    if rules.one_store_per_output:
        lines.append("- One tl.store() for each output tensor; what lies between stays in registers.")
    else:
        lines.append("- tl.store() may be used freely.")
    for write in (_write_advice, _write_parameters, _write_conditions):
        lines += write(rules)
    lines += [
        "",
        "Keep or revert:",
        f"- Compare with what was there before, in one run: revert if gain < {rules.min_gain_percent:g}%.",
    ]
    return "\n".join(lines) + "\n"


_ADVICE: Mapping[Stage, tuple[str, ...]] = {
    Stage.GRID_AND_PARALLEL: (
        "Cover every element of every output with some program, whatever the sizes are.",
        "Have at least a few programs for each SM; when the outputs are few, split the reductions.",
        "Give neighbouring programs neighbouring data, so that what one reads the next finds in L2.",
        "Let the innermost dimension of the data run along a program's lanes.",
    ),
    Stage.BLOCK_TILING: (
        "Choose tiles that are powers of two and mask what reaches over the edge.",
        "Make tiles large enough to reuse what is loaded, small enough to stay in registers.",
        "Feed the tensor cores tiles of 16 or more in every dimension.",
        "Keep the working set of all pipeline stages inside the shared memory of a block.",
    ),
    Stage.MEMORY_ACCESS: (
        "Load each input as often as needed; never write an intermediate to memory and read it again.",
        "Let consecutive lanes touch consecutive addresses, 16 bytes a lane where the layout allows it.",
        "Take index arithmetic that does not change out of the loops.",
    ),
    Stage.ADVANCED_MEMORY: ("Only launch parameters are in play; the kernel computes what it did, as it did.",),
    Stage.MEMORY_AND_TUNING: (
        "Load each input as often as needed; never write an intermediate to memory and read it again.",
        "Settle the access pattern first, then the launch parameters.",
    ),
}


def _write_advice(rules: StageRules) -> list[str]:
    return ["", "What good code does here:", *(f"- {line}" for line in _ADVICE[rules.stage])]


def _write_parameters(rules: StageRules) -> list[str]:
    """Sets, limits and baseline, as far as the stage has them."""
    lines = []
    if rules.num_warps:
        lines.append(f"- num_warps ∈ {{{', '.join(map(str, rules.num_warps))}}}")
    if rules.num_stages:
        lines.append(f"- num_stages ∈ {{{', '.join(map(str, rules.num_stages))}}}")
    if rules.start_num_stages is not None:
        lines.append(f"- num_stages: start with {rules.start_num_stages}; more only while registers are left")
    if rules.max_autotune_configs is not None:
        lines.append(f"- At most: max {rules.max_autotune_configs} configs in an autotune list")
    if rules.conservative_baseline is not None:
        warps, stages = rules.conservative_baseline
        lines.append(f"- Always among the trials: the baseline (num_warps={warps}, num_stages={stages})")
    return ["", "Parameters:", *lines] if lines else []


def _write_conditions(rules: StageRules) -> list[str]:
    lines = []
    previous: str | None = None
    for when, advice in rules.conditions:
        if when != previous:
            lines += ["", f"IF {when}:"]
        lines.append(f"  - {advice}")
        previous = when
    return ["", "Depending on the compiled kernel:", *lines] if lines else []
