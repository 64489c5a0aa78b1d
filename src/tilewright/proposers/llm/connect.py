"""From `--llm` to a proposer: the server is found and looked at before anything else is done."""

from __future__ import annotations

import os
from pathlib import Path

from tilewright.proposers.llm.language_model import LanguageModel
from tilewright.proposers.llm.server import Server
from tilewright.proposers.llm.settings import LlmError, Settings

#: Names the model that `auto` takes.
MODEL_VARIABLE = "OPENAI_MODEL"


def connect(settings: Settings) -> LanguageModel:
    """The proposer that the settings ask for.

    Raises:
        LlmError: there is no key, no server, or, for `auto`, no model that could be meant.
    """
    if settings.replays is not None:
        return LanguageModel(settings, settings.model, None)
    server = Server()
    try:
        listed = server.models()
        return LanguageModel(settings, _model(settings, listed, server.address), server)
    except BaseException:
        server.close()
        raise


def _model(settings: Settings, listed: tuple[str, ...], address: str) -> str:
    if not settings.is_optional:
        return settings.model
    named = os.environ.get(MODEL_VARIABLE, "").strip()
    if named:
        return named
    if len(listed) == 1:
        return listed[0]
    raise LlmError(
        f"the server at {address} lists {len(listed)} models, and none was chosen",
        hint=f"--llm MODEL, or set {MODEL_VARIABLE}",
    )


def connect_if_there(settings: Settings) -> tuple[LanguageModel | None, str]:
    """The proposer, or for `auto` why there is none.

    Raises:
        LlmError: as `connect`, where a model was asked for by name.
    """
    try:
        return connect(settings), ""
    except LlmError as error:
        if not settings.is_optional:
            raise
        return None, f"no language model was asked: {error.what}"


def replayed_study(settings: Settings) -> Path | None:
    """The study that is replayed, if one is.

    Raises:
        LlmError: there is no such file.
    """
    if settings.replays is None:
        return None
    path = Path(settings.replays)
    if not path.is_file():
        raise LlmError(f"{path}: there is no such study to replay")
    return path
