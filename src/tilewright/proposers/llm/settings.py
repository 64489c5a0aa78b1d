"""How a language model is asked, and what it may cost: frozen values, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.errors import TilewrightError


class LlmError(TilewrightError):
    """The language model cannot be used: no key, no server, no such study to replay, a setting out of range."""


@dataclass(frozen=True)
class Price:
    """What tokens cost, US dollars for a million of them."""

    input_usd: float
    output_usd: float

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars for so many tokens."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1e6


def read_price(text: str) -> Price:
    """A price as `--llm-price` takes it: `IN/OUT`, US dollars for a million tokens.

    Raises:
        LlmError: it is something else.
    """
    try:
        first, second = (float(part) for part in text.split("/"))
    except ValueError:
        first = second = -1.0
    if not (0.0 <= first < 1e6 and 0.0 <= second < 1e6):
        raise LlmError(f"no price: {text!r}", hint="input and output, dollars for a million tokens: --llm-price 2.5/10")
    return Price(first, second)


@dataclass(frozen=True)
class Budget:
    """What the conversations of one study may use together.

    Attributes:
        requests: sent at most, retries included.
        tokens: in and out together.
        cost_usd: at the prices given; None for no limit.
        seconds: wall time spent waiting for replies in one run.
    """

    requests: int = 32
    tokens: int = 400_000
    cost_usd: float | None = None
    seconds: float = 900.0


@dataclass(frozen=True)
class Settings:
    """How a language model is asked.

    Attributes:
        model: its name as the server knows it, `auto`, or `replay:STUDY`.
        samples: conversations of a stage, held at once.
        repairs: how often a reply of one conversation is sent back.
        attempts: requests for one reply, where the transport fails.
        reply_tokens: of one reply, at most.
        request_s: wall time of one request.
        wait_s: longest pause before another attempt; a server that asks for more is left alone.
        budget: of the study.
        price: of tokens; needed for a budget in dollars.
        temperature: passed on; the server's own default where None.
    """

    model: str
    samples: int = 2
    repairs: int = 2
    attempts: int = 3
    reply_tokens: int = 16_000
    request_s: float = 300.0
    wait_s: float = 60.0
    budget: Budget = Budget()
    price: Price | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise LlmError("the model has no name", hint="--llm MODEL, --llm auto or --llm replay:STUDY")
        numbers = {
            "samples": self.samples,
            "attempts": self.attempts,
            "reply tokens": self.reply_tokens,
            "requests": self.budget.requests,
            "tokens": self.budget.tokens,
            "seconds": self.budget.seconds,
        }
        for name, value in numbers.items():
            if value <= 0:
                raise LlmError(f"{value} {name} for the language model: there must be at least one")
        if self.repairs < 0:
            raise LlmError(f"{self.repairs} repairs for the language model: the number cannot be negative")
        if self.budget.cost_usd is not None and self.price is None:
            raise LlmError(
                "a budget in dollars needs the price of the tokens", hint="--llm-price IN/OUT, for a million tokens"
            )

    @property
    def replays(self) -> str | None:
        """The study file that is replayed; None where a server is asked."""
        return self.model.removeprefix("replay:") if self.model.startswith("replay:") else None

    @property
    def is_optional(self) -> bool:
        """`auto`: the run goes on without a model where there is none."""
        return self.model == "auto"
