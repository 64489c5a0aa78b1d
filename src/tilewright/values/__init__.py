"""Floor 0: the frozen values that travel between the floors. Each is defined once, here."""

from tilewright.values.candidate import Candidate, Launch, LaunchArgument, NativeCall, Origin, Recording
from tilewright.values.measurement import Measured, Modelled, Timing, Work
from tilewright.values.precision import PrecisionClass
from tilewright.values.schedule import Schedule
from tilewright.values.serialise import as_json
from tilewright.values.verdict import ErrorRow, Finding, KernelResources, Severity, Verdict

__all__ = [
    "Candidate",
    "ErrorRow",
    "Finding",
    "KernelResources",
    "Launch",
    "LaunchArgument",
    "Measured",
    "Modelled",
    "NativeCall",
    "Origin",
    "PrecisionClass",
    "Recording",
    "Schedule",
    "Severity",
    "Timing",
    "Verdict",
    "Work",
    "as_json",
]
