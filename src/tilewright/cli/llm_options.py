"""The options of `optimize` that put a language model to work."""

from __future__ import annotations

from typing import Annotated

import typer

from tilewright.proposers.llm.settings import Budget, Settings, read_price

_PANEL = "Language model (base URL and key: OPENAI_BASE_URL, OPENAI_API_KEY)"

DEFAULT = Settings("auto")

Model = Annotated[
    str | None,
    typer.Option(
        "--llm",
        metavar="MODEL",
        rich_help_panel=_PANEL,
        help="Ask this model too. 'auto': if there is a key and a server ($OPENAI_MODEL, or the one that it lists); "
        "'replay:STUDY': what a study's model said.",
    ),
]
Samples = Annotated[
    int, typer.Option("--llm-samples", metavar="N", rich_help_panel=_PANEL, help="Conversations of a stage, at once.")
]
Repairs = Annotated[
    int, typer.Option("--llm-repairs", metavar="N", rich_help_panel=_PANEL, help="Times that a reply is sent back.")
]
Requests = Annotated[
    int, typer.Option("--llm-requests", metavar="N", rich_help_panel=_PANEL, help="Budget: requests, retries included.")
]
Tokens = Annotated[
    int, typer.Option("--llm-tokens", metavar="N", rich_help_panel=_PANEL, help="Budget: tokens, in and out.")
]
ReplyTokens = Annotated[
    int, typer.Option("--llm-reply-tokens", metavar="N", rich_help_panel=_PANEL, help="Tokens of one reply at most.")
]
Seconds = Annotated[
    float, typer.Option("--llm-seconds", metavar="S", rich_help_panel=_PANEL, help="Budget: waiting for replies.")
]
Cost = Annotated[
    float | None,
    typer.Option("--llm-cost", metavar="USD", rich_help_panel=_PANEL, help="Budget: dollars; needs --llm-price."),
]
PriceText = Annotated[
    str | None,
    typer.Option("--llm-price", metavar="IN/OUT", rich_help_panel=_PANEL, help="Dollars for a million tokens."),
]


def settings(
    model: str | None,
    *,
    samples: int,
    repairs: int,
    requests: int,
    tokens: int,
    reply_tokens: int,
    seconds: float,
    cost: float | None,
    price: str | None,
) -> Settings | None:
    """The settings that the options give; None where no model is asked for.

    Raises:
        LlmError: one of them is out of range.
    """
    if model is None:
        return None
    return Settings(
        model,
        samples=samples,
        repairs=repairs,
        reply_tokens=reply_tokens,
        budget=Budget(requests, tokens, cost, seconds),
        price=None if price is None else read_price(price),
    )
