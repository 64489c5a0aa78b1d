"""The server: the tools, their inputs, and the ways to reach them."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from tilewright import __version__
from tilewright.errors import TilewrightError
from tilewright.mcp.folders import Folders
from tilewright.mcp.jobs import LOOKED_UP

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

INSTRUCTIONS = """Bench for GPU kernels: verify and speed up PyTorch modules with Triton.
A task is a Python file with Model, get_inputs and get_init_inputs, or a document (text with target GPU, stage, code).
A document alone can be inspected; to run it give reference (a Python file), or init and inputs.
Start with inspect. optimize finds a faster module by itself; verify judges yours: a Python file with class ModelNew.
Without a GPU kernels run in Triton's interpreter and times are modelled; every time says which."""


class McpError(TilewrightError):
    """The server cannot be started."""


def build_server(folders: Folders) -> MCPServer[Any]:
    """The server with all tools whose functions exist.

    Args:
        folders: what the tools' paths are confined to.

    Raises:
        McpError: the SDK is not installed.
    """
    try:
        sdk = importlib.import_module("mcp.server.mcpserver")
    except ImportError:
        raise McpError("the mcp package (2 or newer) is not installed", hint="pip install 'tilewright[mcp]'") from None
    from tilewright.mcp.calls import Bench, looked_up_tool

    server: MCPServer[Any] = sdk.MCPServer(
        "tilewright", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING"
    )
    bench = Bench(folders)
    for tool in (bench.inspect, bench.profile, bench.prompt, bench.verify, bench.optimize):
        server.add_tool(tool, description=inspect.getdoc(tool))
    for name in LOOKED_UP:
        if (found := looked_up_tool(bench.call, name)) is not None:
            server.add_tool(found, description=inspect.getdoc(found))
    return server


def serve(
    folders: Folders, *, http: bool = False, host: str = "127.0.0.1", port: int = 8765, allow_remote: bool = False
) -> None:
    """Serve until the client goes (stdio) or the process is ended (HTTP).

    Raises:
        McpError: the SDK is not installed, or the address is not loopback and that was not allowed.
    """
    server = build_server(folders)
    if not http:
        server.run("stdio")
        return
    if host not in ("127.0.0.1", "localhost", "::1") and not allow_remote:
        raise McpError(
            f"{host} can be reached from other machines, and whoever reaches it can run code here",
            hint="--allow-remote serves there all the same",
        )
    server.run("streamable-http", host=host, port=port)
