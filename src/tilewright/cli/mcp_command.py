"""`tilewright mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mcp(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...",
            help="Folders that the tools may read and write; default: the current one.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Streamable HTTP instead of stdio.")] = False,
    host: Annotated[str, typer.Option("--host", help="Address of --http.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of --http.")] = 8765,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let --host be an address that other machines reach.")
    ] = False,
) -> None:
    """Serve the bench to agents over the Model Context Protocol.

    The tools run Python files in those folders. Exit code 0: the client has gone; 2: it cannot be started.
    """
    from tilewright.mcp.folders import open_folders
    from tilewright.mcp.server import serve

    serve(open_folders(folders or []), http=http, host=host, port=port, allow_remote=allow_remote)
