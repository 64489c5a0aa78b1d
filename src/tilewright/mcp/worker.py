"""A tool's process: a job in on stdin, lines of JSON out on stdout: progress, then one result or one error.

It ends, and all that it started, when its stdin is closed: a server that is gone leaves nothing running.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import IO, Any

from tilewright.errors import TilewrightError
from tilewright.mcp import jobs
from tilewright.sandbox.processes import end_tree


def main() -> int:
    """Read the job, do it, write its outcome."""
    out = _keep_stdout()
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_server, daemon=True).start()

    def tell(fraction: float | None, message: str) -> None:
        _write(out, {"progress": {"fraction": fraction, "message": message}})

    try:
        _write(out, {"result": jobs.run(job["tool"], job["arguments"], tell)})
    except TilewrightError as error:
        _write(out, {"error": str(error)})
    except Exception as error:  # of ours: the client is told its kind, the server's log the rest
        _write(out, {"error": f"unexpected {type(error).__name__}: {error}", "unexpected": True})
        raise
    return 0


def _keep_stdout() -> IO[str]:
    """The pipe to the server; whatever else writes to stdout writes to stderr from now on."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _write(out: IO[str], value: dict[str, Any]) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


def _end_with_server() -> None:
    """Wait for the end of stdin, which the server holds open as long as it wants this job."""
    while os.read(0, 4096):
        pass
    end_tree(os.getpid(), spare_root=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
