"""The page's plots: bars as HTML, the roofline as inline SVG. No script, no resource from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tilewright.values.diagnosis import DiagnosisReport
from tilewright.values.sight import Ceilings, RooflinePoint, Sight

#: Colours of a stacked bar's parts, by order; the last stands for all further ones.
PART_COLOURS = 8

# The roofline's drawing, in units of about a pixel on a phone.
_WIDTH, _HEIGHT = 350.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 20.0, 18.0, 40.0
#: Steps that take a smaller part of the forward pass are not drawn.
_SMALLEST_PART = 0.03


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    Attributes:
        name: beside it.
        percent: its length, of the longest one.
        value: in words, behind it.
        kind: CSS class of its colour.
    """

    name: str
    percent: float
    value: str
    kind: str


@dataclass(frozen=True)
class Stacked:
    """One forward pass as a stacked bar.

    Attributes:
        name: of the module.
        total: in words.
        label: measured or modelled.
        segments: (percent of the longest bar, number of the colour, step, time and share in words, what binds it).
    """

    name: str
    total: str
    label: str
    segments: tuple[tuple[float, int, str, str, str], ...]


def stacked_bars(sights: Sequence[Sight]) -> tuple[Stacked, ...]:
    """Where the time goes, before and after: bars in one scale."""
    reports = [(sight.subject, sight.report) for sight in sights if sight.report.total_ms and sight.report.parts]
    longest = max((report.total_ms or 0.0 for _, report in reports), default=0.0)
    return tuple(_stacked(subject, report, longest) for subject, report in reports)


def _stacked(subject: str, report: DiagnosisReport, longest: float) -> Stacked:
    total = report.total_ms or 0.0
    segments = []
    shown = [part for part in report.parts if (part.time_ms or 0.0) >= _SMALLEST_PART * total]
    for number, part in enumerate(shown):
        time = part.time_ms or 0.0
        name = f"{part.name} (PyTorch)" if part.native else part.name
        name += f", {part.calls} calls" if part.calls > 1 else ""
        words = f"{time:.4g} ms, {100 * time / total:.0f} %"
        segments.append((100 * time / longest, min(number, PART_COLOURS - 2), name, words, part.limit))
    count = sum(part.calls for part in report.parts) - sum(part.calls for part in shown)
    if count:
        rest = sum(part.time_ms or 0.0 for part in report.parts if part not in shown)
        words = f"{rest:.4g} ms, {100 * rest / total:.0f} %"
        segments.append((100 * rest / longest, PART_COLOURS - 1, f"{count} shorter steps together", words, ""))
    return Stacked(subject, f"{total:.4g} ms", report.total_label, tuple(segments))


@dataclass(frozen=True)
class Numbered:
    """A point of the roofline with the number that stands in it.

    Attributes:
        number: from 1.
        subject: whose step it is.
        point: the step.
        of_roof: its rate as a part of the roof above it, 0 to 1.
    """

    number: int
    subject: str
    point: RooflinePoint
    of_roof: float


def numbered_points(sights: Sequence[Sight], ceilings: Ceilings) -> tuple[Numbered, ...]:
    """All steps of all modules that can be placed and take their part of the time."""
    found: list[Numbered] = []
    for sight in sights:
        total = sight.report.total_ms or sum(point.time_ms for point in sight.points)
        for point in sight.points:
            drawn = point.time_ms > _SMALLEST_PART * total
            if drawn and point.operations > 0 and point.moved_bytes > 0:
                part = point.tflops / roof(point.intensity, ceilings)
                found.append(Numbered(len(found) + 1, sight.subject, point, part))
    return tuple(found)


def roof(intensity: float, ceilings: Ceilings) -> float:
    """The highest rate at so many operations a byte, 10**12 operations a second."""
    return min(intensity * ceilings.bandwidth_gb_s * 1e-3, ceilings.top_tflops)


@dataclass(frozen=True)
class _Axes:
    """Decades of both axes, and where they lie in the drawing."""

    x: tuple[int, int]
    y: tuple[int, int]

    def across(self, intensity: float) -> float:
        low, high = self.x
        part = (math.log10(intensity) - low) / (high - low)
        return _LEFT + min(1.0, max(0.0, part)) * (_WIDTH - _LEFT - _RIGHT)

    def up(self, tflops: float) -> float:
        low, high = self.y
        part = (math.log10(tflops) - low) / (high - low)
        return _HEIGHT - _BOTTOM - min(1.0, max(0.0, part)) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(points: Sequence[Numbered], ceilings: Ceilings) -> _Axes:
    top = ceilings.top_tflops
    ridge = top / (ceilings.bandwidth_gb_s * 1e-3)
    xs = [0.1, 2 * ridge, *(item.point.intensity for item in points)]
    ys = [top, *(item.point.tflops for item in points), roof(0.1, ceilings)]
    return _Axes(
        (math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))),
        (math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))),
    )


def roofline(points: Sequence[Numbered], ceilings: Ceilings) -> Markup:
    """The roofline with every step of every module, as one SVG element."""
    axes = _axes(points, ceilings)
    parts = [*_grid(axes), *_roof_lines(axes, ceilings), *(_mark(axes, item) for item in points)]
    title = (
        f"Roofline: {len(points)} steps under {ceilings.bandwidth_gb_s:g} GB/s and {ceilings.matrix_tflops:g} TFLOP/s"
    )
    return Markup('<svg class="roofline" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        f"{_WIDTH:g}", f"{_HEIGHT:g}", title, Markup("").join(parts)
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        kind, *(f"{value:.1f}" for value in (x1, y1, x2, y2))
    )


def _text(x: float, y: float, words: str, kind: str = "", more: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" {}>{}</text>').format(
        kind, f"{x:.1f}", f"{y:.1f}", Markup(more), words
    )


def _decade(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -3 <= exponent <= 4 else f"1e{exponent}"


def _grid(axes: _Axes) -> Iterator[Markup]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for exponent in range(axes.x[0], axes.x[1] + 1):
        x = axes.across(10.0**exponent)
        yield _line(x, _TOP, x, bottom, "grid")
        yield _text(x, bottom + 14, _decade(exponent), "middle")
    for exponent in range(axes.y[0], axes.y[1] + 1):
        y = axes.up(10.0**exponent)
        yield _line(_LEFT, y, right, y, "grid")
        yield _text(_LEFT - 5, y + 4, _decade(exponent), "end")
    yield _text((_LEFT + right) / 2, _HEIGHT - 6, "operations a byte of DRAM", "middle")
    middle = (_TOP + bottom) / 2
    yield _text(11, middle, "TFLOP/s", "middle", f'transform="rotate(-90 11 {middle:.1f})"')


def _roof_lines(axes: _Axes, ceilings: Ceilings) -> Iterator[Markup]:
    slope = ceilings.bandwidth_gb_s * 1e-3
    low, high = 10.0 ** axes.x[0], 10.0 ** axes.x[1]
    top = ceilings.top_tflops
    start = max(low, 10.0 ** axes.y[0] / slope)
    yield _line(axes.across(start), axes.up(start * slope), axes.across(top / slope), axes.up(top), "roof")
    yield _line(axes.across(top / slope), axes.up(top), axes.across(high), axes.up(top), "roof")
    lines = {"FP16": ceilings.half_tflops, ceilings.operand: ceilings.matrix_tflops, "FP32": ceilings.fp32_tflops}
    placed: list[float] = []
    for name, rate in sorted(lines.items(), key=lambda line: -line[1]):
        y = axes.up(rate) if rate > 0 else 0.0
        if rate <= 0 or any(abs(y - other) < 1 for other in placed):
            continue
        if rate < top:
            yield _line(axes.across(rate / slope), y, axes.across(high), y, "roof second")
        if all(y - other > 11 for other in placed):
            yield _text(_WIDTH - _RIGHT, y - 4, f"{name} {rate:g}", "end")
        placed.append(y)


def _mark(axes: _Axes, item: Numbered) -> Markup:
    x, y = axes.across(item.point.intensity), axes.up(item.point.tflops)
    kind = f"point {subject_class(item.subject)}{' native' if item.point.native else ''}"
    hint = escape(f"{item.number}: {item.subject}, {item.point.name}")
    return Markup(
        '<g class="{}"><title>{}</title><circle cx="{}" cy="{}" r="8"/><text class="middle" x="{}" y="{}">{}</text></g>'
    ).format(kind, hint, f"{x:.1f}", f"{y:.1f}", f"{x:.1f}", f"{y + 4:.1f}", str(item.number))


def subject_class(subject: str) -> str:
    """CSS class of a module's colour."""
    return {"reference": "of-reference", "given code": "of-given", "ours": "of-ours"}.get(subject, "of-peer")
