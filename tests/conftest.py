"""What all tests share: the folder of documents, the GPU marker, and a cache of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
#: Where the documents lie beside a checkout, unless `--documents` says otherwise.
DEFAULT_DOCUMENTS = REPOSITORY.parent / "shared" / "seeds"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--documents",
        metavar="DIR",
        default=None,
        help=f"folder of task documents (*.txt); default: {DEFAULT_DOCUMENTS.relative_to(REPOSITORY.parent)} beside "
        "the repository, if it exists",
    )
    parser.addoption(
        "--corpus",
        choices=("sample", "all"),
        default="sample",
        help="candidates of tests/gate/corpus that go through the gate: a fixed sample (default), or all of them",
    )


def _documents(config: pytest.Config) -> Path | None:
    """The folder of documents, or None where there is none. A folder that was asked for must exist."""
    given = config.getoption("--documents")
    if given is None:
        return DEFAULT_DOCUMENTS if DEFAULT_DOCUMENTS.is_dir() else None
    folder = Path(given).resolve()
    if not folder.is_dir():
        raise pytest.UsageError(f"--documents {given}: no such folder")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    _documents(config)


def pytest_report_header(config: pytest.Config) -> str:
    return f"documents: {_documents(config) or 'none (give --documents DIR)'}"


def _no_gpu_reason() -> str | None:
    """Why GPU tests cannot run here, or None where they can."""
    import torch

    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU: torch.cuda.is_available() is False"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and (reason := _no_gpu_reason()):
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason=reason))
    if _documents(config) is None:
        for item in items:
            if item.get_closest_marker("documents"):
                item.add_marker(pytest.mark.skip(reason="needs the folder of documents: give --documents DIR"))


@pytest.fixture(scope="session")
def documents_dir(pytestconfig: pytest.Config) -> Path:
    """The folder that holds the documents (`*.txt`); the test is skipped where there is none."""
    folder = _documents(pytestconfig)
    if folder is None:
        pytest.skip("needs the folder of documents: give --documents DIR")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Studies and modules that tests leave in the user's cache go to a folder of the test run."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
