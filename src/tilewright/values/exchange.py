"""One question to a language model and what came back: a trial of the conversation, kept in the study."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What was wrong with an exchange; each has a bound on how often it is met with another question."""

    TIMEOUT = "timeout"  #: no answer, or no end of it, in the time allowed
    RATE_LIMIT = "rate limit"  #: HTTP 429
    SERVER_ERROR = "server error"  #: HTTP 5xx
    CONNECTION = "connection"  #: no connection, or one that broke before the reply began
    STREAM_CUT = "stream cut"  #: the connection ended in the middle of the reply
    REFUSED_REQUEST = "refused request"  #: any other HTTP status: the key, the model's name, the request
    TOO_LARGE = "too large"  #: more than is read of a reply
    INVALID_TEXT = "invalid text"  #: not UTF-8, or not the protocol
    TRUNCATED = "truncated"  #: the model stopped at its token limit, in the middle of the code
    REFUSAL = "refusal"  #: the model or its server's filter declined
    EMPTY = "empty"  #: a reply without text
    UNREADABLE = "unreadable"  #: not exactly one Python block that parses and defines `ModelNew`
    NOT_RECORDED = "not recorded"  #: a replay that has no such exchange


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `user` or `assistant`.
        content: its text.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Position:
    """Where an exchange stands in a run's conversation.

    Attributes:
        task: identity of the task, 16 hex digits: what is asked, its inputs, GPU, precision and rules.
        stage: name of the stage.
        sample: which of the conversations of the stage, from 0.
        round: 0 for the first question, n for the n-th question that sent a reply back.
        attempt: 0 for the first request of a round, n after n faults of the transport.
    """

    task: str
    stage: str
    sample: int
    round: int
    attempt: int


@dataclass(frozen=True)
class Exchange:
    """One request and what came of it.

    Attributes:
        position: where it stands in the conversation.
        key: SHA-256 over everything that the reply depends on but times, 64 hex digits.
        model: as the server knows it.
        server: its base URL, without credentials.
        messages: what was sent.
        reply: the text that came back, also where the exchange failed in the middle of it.
        fault: what was wrong; None where the reply held a candidate.
        detail: the fault in words, one line; empty without one.
        candidate: digest of the candidate that the reply held; empty where it held none.
        input_tokens, output_tokens: as the server counted them, or estimated from the text.
        estimated: the server did not count.
        cost_usd: at the prices given; None without prices.
        seconds: wall time of the request.
        resumed: it was found in the study; nothing was sent in this run.
    """

    position: Position
    key: str
    model: str
    server: str
    messages: tuple[Message, ...]
    reply: str = ""
    fault: Fault | None = None
    detail: str = ""
    candidate: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    cost_usd: float | None = None
    seconds: float = 0.0
    resumed: bool = False

    @property
    def paid(self) -> bool:
        """The model answered, if badly: asking again would be paid twice."""
        return self.fault not in _UNPAID or bool(self.reply)


_UNPAID = frozenset(
    {
        Fault.TIMEOUT,
        Fault.RATE_LIMIT,
        Fault.SERVER_ERROR,
        Fault.CONNECTION,
        Fault.REFUSED_REQUEST,
        Fault.NOT_RECORDED,
    }
)
