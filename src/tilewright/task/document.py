"""Documents: a task as text, cut into sections byte for byte, and read into data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.errors import DocumentError, SourceLocation
from tilewright.gpu.gpu import Gpu
from tilewright.task.fences import Fence, find_fences, split_lines, with_unix_newlines
from tilewright.task.gpu_header import GpuHeader, read_header
from tilewright.task.metrics import read_metrics
from tilewright.task.python_source import parse_source, require_names
from tilewright.task.stage import Stage
from tilewright.task.stage_rules import read_rules
from tilewright.task.task import Document, OutputRules, Section

#: Heading -> kind of the section that it opens, in the documents' order. Both wordings.
_HEADINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^#+\s*Target GPU\b", re.IGNORECASE), "gpu"),
    (re.compile(r"^\[\s*OPTIMI[SZ]ATION STAGE\s*\]$", re.IGNORECASE), "stage"),
    (re.compile(r"^\[\s*CURRENT CODE\s*\]$", re.IGNORECASE), "code"),
    (re.compile(r"^\[\s*NCU PROFILING METRICS\s*\]$", re.IGNORECASE), "metrics"),
    (re.compile(r"^\*\*Task\*\*", re.IGNORECASE), "task"),
    (re.compile(r"^(?:#+\s*)?TRITON API CONSTRAINTS\b", re.IGNORECASE), "api_constraints"),
    (re.compile(r"^(?:#+\s*)CRITICAL\b"), "api_constraints"),
    (re.compile(r"^(?:#+\s*)Missing Triton Functions\b", re.IGNORECASE), "api_constraints"),
    (re.compile(r"^(?:#+\s*)?OUTPUT (?:RULES|FORMAT)\b"), "output_rules"),
    (re.compile(r"^\[[A-Z][A-Z0-9 _-]*\]$"), "unknown"),
    (re.compile(r"^#\s+\S"), "unknown"),
)
_SUBHEADING = re.compile(r"^##+\s+\S")

#: The line of a document that demands `--rules strict`.
STRICT_STORES = "One literal `tl.store` for each output tensor, and no other."

#: Sections in which a heading of the second level is a part; elsewhere it opens a section.
_WITH_SUBHEADINGS = frozenset({"stage", "unknown", "preamble"})


@dataclass(frozen=True)
class _Part:
    """One section and where it starts, counting lines from 1."""

    section: Section
    line: int

    @property
    def text(self) -> str:
        r"""The section's text, line endings as `\n`."""
        return with_unix_newlines(self.section.text)

    @property
    def lines(self) -> list[str]:
        """Its lines, without their endings."""
        return self.text.split("\n")


def read_document(
    text: str, path: Path | None = None, *, gpu: Gpu | None = None, stage: Stage | None = None
) -> Document:
    """Read a document.

    Args:
        text: the whole text, line endings as they are in the file.
        path: where it is from, for messages and for a GPU file beside it.
        gpu: in the place of the header's.
        stage: in the place of a stage that is missing or unknown; its default rules hold then.

    Raises:
        DocumentError: no code block, an unknown stage, metrics that are not JSON, a figure that is no number.
        SourceError: the code does not parse, or defines no `ModelNew`.
        UnknownGpuError: the GPU is in no table.
    """
    parts = _cut(text.removeprefix("\ufeff"))
    shown = "<document>" if path is None else str(path)
    code, code_line = _read_code(parts, shown)
    header = _read_gpu(parts, path, gpu)
    stage_part = _first(parts, "stage")
    rules = read_rules(
        stage_part.text if stage_part else "", path=shown, first_line=stage_part.line if stage_part else 1, stage=stage
    )
    sections = tuple(part.section for part in parts)
    if text.startswith("\ufeff"):
        sections = (Section("mark", "\ufeff"), *sections)
    return Document(
        path=path,
        sections=sections,
        gpu=header.gpu,
        gpu_figures=header.figures,
        rules=rules,
        code=code,
        code_line=code_line,
        metrics=_read_metrics(parts, shown),
        api_constraints=tuple(_items(parts, "api_constraints")),
        output_rules=_read_output_rules(parts, one_store=rules.one_store_per_output),
    )


def write_document(document: Document) -> str:
    """The document's text: the same bytes as were read."""
    return document.text


def looks_like_document(text: str) -> bool:
    """True where the text has a document's headings, or a fenced block under a heading."""
    kinds = {part.section.kind for part in _cut(text.removeprefix("\ufeff"))}
    return bool(kinds & {"stage", "code", "metrics", "task"}) or {"gpu", "output_rules"} <= kinds


def _cut(text: str) -> tuple[_Part, ...]:
    """The sections of a text, in order; joined they are the text."""
    lines = split_lines(text)
    fences = find_fences(lines)
    starts = [(0, "preamble"), *_section_starts(lines, fences)]
    ends = [start for start, _ in starts[1:]] + [len(lines)]
    return tuple(
        _Part(Section(kind, "".join(lines[start:end])), start + 1)
        for (start, kind), end in zip(starts, ends, strict=True)
        if end > start
    )


def _section_starts(lines: Sequence[str], fences: Sequence[Fence]) -> Iterator[tuple[int, str]]:
    """(index of the line, kind) of every section that a heading or the answer's block opens."""
    opened = {fence.start: fence for fence in fences}
    kind = "preamble"
    index = 0
    while index < len(lines):
        fence = opened.get(index)
        found = _heading_kind(lines[index].rstrip(), kind)
        if fence is not None and kind in ("output_rules", "api_constraints", "task"):
            found = "answer"
        if found is not None:
            kind = found
            yield index, kind
        index = fence.end if fence is not None else index + 1


def _heading_kind(line: str, current: str) -> str | None:
    """Kind of the section that `line` opens; None where it opens none."""
    for pattern, kind in _HEADINGS:
        if pattern.match(line):
            return kind
    if _SUBHEADING.match(line) and current not in _WITH_SUBHEADINGS:
        return "unknown"
    return None


def _first(parts: Sequence[_Part], kind: str) -> _Part | None:
    return next((part for part in parts if part.section.kind == kind), None)


def _read_code(parts: Sequence[_Part], shown: str) -> tuple[str, int]:
    """The current code and the line where it starts."""
    part = _first(parts, "code")
    if part is None:
        hint = "a document has its code under [CURRENT CODE], in one ```python block"
        raise DocumentError(
            "the document has no code block: no section [CURRENT CODE]", where=SourceLocation(shown), hint=hint
        )
    fences = [fence for fence in find_fences(part.lines) if fence.is_python or not fence.language]
    where = SourceLocation(shown, part.line)
    if not fences:
        raise DocumentError(
            "the section [CURRENT CODE] has no code block", where=where, hint="put the code between ```python and ```"
        )
    fence = fences[0]
    where = SourceLocation(shown, part.line + fence.start)
    if not fence.closed:
        raise DocumentError("the code block is never closed", where=where, hint="end it with a line ```")
    if len(fences) > 1:
        second = part.line + fences[1].start
        raise DocumentError(f"the section [CURRENT CODE] has two code blocks, the second in line {second}", where=where)
    code = "".join(f"{line}\n" for line in part.lines[fence.body])
    first_line = part.line + fence.start + 1
    if not code.strip():
        raise DocumentError("the code block is empty", where=where)
    require_names(parse_source(code, shown, first_line), ["ModelNew"], shown, first_line)
    return code, first_line


def _read_gpu(parts: Sequence[_Part], path: Path | None, gpu: Gpu | None) -> GpuHeader:
    part = _first(parts, "gpu")
    if part is None:
        if gpu is not None:
            return GpuHeader(gpu, {})
        where = SourceLocation("<document>" if path is None else str(path))
        raise DocumentError(
            "the document names no GPU: no section `# Target GPU`", where=where, hint="--gpu NAME says which"
        )
    return read_header(part.text, path=path, first_line=part.line, gpu=gpu)


def _read_metrics(parts: Sequence[_Part], shown: str) -> Mapping[str, Mapping[str, float]]:
    part = _first(parts, "metrics")
    if part is None:
        return {}
    lines = part.lines[1:]
    # A block around the JSON is common; its ticks are no part of it.
    for fence in find_fences(lines)[:1]:
        if not "".join(lines[: fence.start]).strip():
            lines = [
                "" if index == fence.start or (fence.closed and index == fence.end - 1) else line
                for index, line in enumerate(lines)
            ]
    return read_metrics("\n".join(lines), path=shown, first_line=part.line + 1)


_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(\S.*)$")
_MISSING = re.compile(r"\btl(?:\.\w+)+")


def _items(parts: Sequence[_Part], kind: str) -> Iterator[str]:
    """The items of all sections of a kind, without bullet or number."""
    for part in parts:
        if part.section.kind == kind:
            yield from (match[1] for line in part.lines if (match := _BULLET.match(line.rstrip())))


def _read_output_rules(parts: Sequence[_Part], *, one_store: bool) -> OutputRules:
    """The rules as data. Where a document has no such section, the defaults hold."""
    default = OutputRules()
    forbidden = tuple(dict.fromkeys(_forbidden(parts)))
    constrained = any(part.section.kind == "api_constraints" for part in parts)
    text = "\n".join(part.text for part in parts if part.section.kind == "output_rules")
    ordered = re.search(r"^[ \t]*\d{1,3}\.[ \t]+Imports\b", text, re.MULTILINE | re.IGNORECASE) is not None
    untested = re.search(r"Do NOT include\b.{0,200}\btest", text, re.IGNORECASE) is not None
    return OutputRules(
        forbidden_functions=forbidden if constrained else default.forbidden_functions,
        fixed_order=ordered if text else default.fixed_order,
        no_test_code=untested if text else default.no_test_code,
        one_store_per_output=one_store,
        strict_stores=STRICT_STORES in text,
    )


def _forbidden(parts: Sequence[_Part]) -> Iterator[str]:
    """Dotted names on the lines that say what Triton lacks."""
    for part in parts:
        if part.section.kind != "api_constraints":
            continue
        missing_section = "missing" in part.lines[0].lower()
        for line in part.lines[1:]:
            if missing_section or re.search(r"\bhas NO\b|\blacks\b", line, re.IGNORECASE):
                yield from _MISSING.findall(line)
