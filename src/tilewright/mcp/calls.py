"""The tools: what a client sends, checked, and the process that does it. Docstrings are what clients read."""

from __future__ import annotations

import inspect as signatures
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Annotated, Any, Literal

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from tilewright.errors import TilewrightError
from tilewright.mcp import jobs, results
from tilewright.mcp.folders import Folders
from tilewright.mcp.running import run_job
from tilewright.sandbox.processes import available_cores
from tilewright.task.stage import Stage
from tilewright.values.precision import PrecisionClass

TaskPath = Annotated[str, Field(description="The task: a Python file or a document.")]
ReferencePath = Annotated[str | None, Field(description="For a document: Python file that says what is right.")]
ReferenceFile = Annotated[
    str, Field(description="Python file with Model, get_inputs, get_init_inputs; or a document with init and inputs.")
]
CandidateFile = Annotated[
    str, Field(description="Python file with class ModelNew, or a reply with one python block, or a document.")
]
Init = Annotated[str | None, Field(description="For a document without reference: constructor arguments, '[64, 3]'.")]
Inputs = Annotated[str | None, Field(description="For a document without reference: inputs, 'rand(128, 64)'.")]
GpuName = Annotated[
    str | None, Field(description="Target, e.g. '4090' or 'h100'; the document's or the installed GPU if left out.")
]
Precision = Annotated[PrecisionClass | None, Field(description="Precision class; the task's own if left out.")]
EffortName = Annotated[Literal["none", "quick", "full"], Field(description="How much to try.")]
Strict = Annotated[bool, Field(description="One literal tl.store for each output and nothing else.")]


PromptStage = Annotated[Stage, Field(description="The stage that the document asks for.")]
RunStage = Annotated[
    Stage | Literal["document"] | None,
    Field(description="The one stage to run ('document': the document's own); all if left out."),
]
OutFolder = Annotated[
    str | None, Field(description="Folder for the results; runs/NAME in the first folder if left out.")
]


Call = Callable[[str, Mapping[str, Any], "Context[Any, Any]", Collection[str]], Awaitable[Any]]


class Bench:
    """The tools of one server. Each call runs in a process of its own, a few at a time."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._places = anyio.CapacityLimiter(max(1, available_cores() // 2))

    async def inspect(
        self,
        ctx: Context[Any, Any],
        path: TaskPath,
        reference: ReferencePath = None,
        init: Init = None,
        inputs: Inputs = None,
        gpu: GpuName = None,
        stage: RunStage = None,
        precision: Precision = None,
    ) -> results.InspectResult:
        """Say what is understood of a task: operations, shapes, least work, the speed of light. Tries nothing."""
        given = {
            "path": path,
            "reference": reference,
            "init": init,
            "inputs": inputs,
            "gpu": gpu,
            "stage": stage,
            "precision": precision,
        }
        return results.inspect_result(await self.call("inspect", given, ctx, ("path", "reference")))

    async def profile(
        self,
        ctx: Context[Any, Any],
        path: TaskPath,
        reference: ReferencePath = None,
        init: Init = None,
        inputs: Inputs = None,
        gpu: GpuName = None,
        precision: Precision = None,
        model: Annotated[bool, Field(description="Predict it for gpu; nothing is measured, no GPU is needed.")] = True,
    ) -> results.ProfileResult:
        """Nsight Compute's metrics of each kernel of a module's forward pass, modelled for a GPU or measured on one."""
        given = {
            "path": path,
            "reference": reference,
            "init": init,
            "inputs": inputs,
            "gpu": gpu,
            "precision": precision,
            "model": model,
        }
        return results.profile_result(await self.call("profile", given, ctx, ("path", "reference")))

    async def prompt(
        self,
        ctx: Context[Any, Any],
        path: TaskPath,
        stage: PromptStage,
        reference: ReferencePath = None,
        gpu: GpuName = None,
    ) -> results.PromptResult:
        """Write a task as a document: target GPU, stage and its rules, current code, profile, output rules."""
        given = {"path": path, "stage": stage, "reference": reference, "gpu": gpu}
        return results.PromptResult.model_validate(await self.call("prompt", given, ctx, ("path", "reference")))

    async def verify(
        self,
        ctx: Context[Any, Any],
        reference: ReferenceFile,
        candidate: CandidateFile,
        init: Init = None,
        inputs: Inputs = None,
        gpu: GpuName = None,
        precision: Precision = None,
        strict: Strict = False,
        effort: EffortName = "quick",
    ) -> results.VerifyResult:
        """Judge a module: contract, compile for the target, correctness against float64 on shapes of every kind.

        Rejected: `reasons` says what is wrong, in numbers. Takes up to minutes without a GPU.
        """
        given = {
            "reference": reference,
            "candidate": candidate,
            "init": init,
            "inputs": inputs,
            "gpu": gpu,
            "precision": precision,
            "strict": strict,
            "effort": effort,
        }
        return results.verify_result(await self.call("verify", given, ctx, ("reference", "candidate")))

    async def optimize(
        self,
        ctx: Context[Any, Any],
        path: TaskPath,
        reference: ReferencePath = None,
        init: Init = None,
        inputs: Inputs = None,
        gpu: GpuName = None,
        stage: RunStage = None,
        precision: Precision = None,
        strict: Strict = False,
        effort: EffortName = "quick",
        out: OutFolder = None,
    ) -> results.OptimizeResult:
        """Find a faster module, verify it, and write it with its report. Takes minutes; progress says what is tried.

        The same call again goes on where an earlier one ended.
        """
        folder = out or str(self._folders.roots[0] / "runs" / self._resolved(path).stem)
        given = {
            "path": path,
            "reference": reference,
            "init": init,
            "inputs": inputs,
            "gpu": gpu,
            "stage": stage,
            "precision": precision,
            "strict": strict,
            "effort": effort,
            "out": folder,
        }
        return results.optimize_result(await self.call("optimize", given, ctx, ("path", "reference", "out")))

    async def call(
        self, tool: str, arguments: Mapping[str, Any], ctx: Context[Any, Any], paths: Collection[str]
    ) -> Any:
        """Run a tool's job with its paths resolved, progress passed on.

        Raises:
            ToolError: the input is at fault, a path lies outside the folders, or the job died.
        """
        given = {
            name: str(self._resolved(value)) if value is not None and name in paths else value
            for name, value in arguments.items()
        }
        gpu = given.get("gpu")
        if isinstance(gpu, str) and gpu.strip().lower().endswith(".toml"):
            given["gpu"] = str(self._resolved(gpu.strip()))
        reached = 0.0

        async def listen(fraction: float | None, message: str) -> None:
            nonlocal reached
            reached = max(reached, fraction or 0.0)
            await ctx.report_progress(reached, 1.0, message)

        async with self._places:
            try:
                return await run_job(tool, given, listen)
            except TilewrightError as error:
                raise ToolError(str(error)) from None

    def _resolved(self, path: str) -> Any:
        try:
            return self._folders.resolve(path)
        except TilewrightError as error:
            raise ToolError(str(error)) from None


def looked_up_tool(call: Call, name: str) -> Callable[..., Any] | None:
    """A tool with the signature of the library's function; None where the library has no such function."""
    try:
        function = jobs.find_function(name)
    except KeyError:
        return None
    all_parameters = signatures.signature(function, eval_str=False).parameters.values()
    taken = {item.name: item for item in all_parameters if _plain_kind(str(item.annotation)) is not None}
    if any(item.default is item.empty and item.name not in taken for item in all_parameters):
        return None
    paths = {key for key, parameter in taken.items() if "Path" in str(parameter.annotation)}

    async def tool(ctx: Context[Any, Any], **arguments: Any) -> results.LookedUpResult:
        return results.LookedUpResult(result=await call(name, arguments, ctx, paths))

    keyword = signatures.Parameter.KEYWORD_ONLY
    parameters = [signatures.Parameter("ctx", keyword, annotation=Context)]
    parameters += [
        parameter.replace(kind=keyword, annotation=_plain_kind(str(parameter.annotation)))
        for parameter in taken.values()
    ]
    tool.__signature__ = signatures.Signature(parameters, return_annotation=results.LookedUpResult)  # type: ignore[attr-defined]
    tool.__annotations__ = {item.name: item.annotation for item in parameters} | {"return": results.LookedUpResult}
    tool.__name__, tool.__doc__ = name, (signatures.getdoc(function) or name).split("\n\n")[0]
    return tool


def _plain_kind(annotation: str) -> Any:
    """The type that a client can send for a parameter, by its annotation; None where there is none."""
    parts = {part.strip().rpartition(".")[2] for part in annotation.split("|")}
    optional = "None" in parts
    for names, kind in (({"str", "Path"}, str), ({"bool"}, bool), ({"int"}, int), ({"float"}, float)):
        if parts - {"None"} and parts - {"None"} <= names:
            return kind | None if optional else kind
    return None
