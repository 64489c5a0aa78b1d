"""The wall to the outside: one request through the openai SDK, with limits on bytes and time, its faults named.

The SDK's own retries are off, so that every request is counted against the budget before it is sent.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilewright.proposers.llm.secrets import Redactor, close_process_to_others, public_url
from tilewright.proposers.llm.settings import LlmError
from tilewright.values.exchange import Fault, Message

if TYPE_CHECKING:
    from openai import OpenAI

#: Of one response's body as it is sent: a streamed token takes some 250 bytes.
_WIRE_BYTES = 16 << 20

#: Of a reply's text: more is no kernel.
REPLY_CHARACTERS = 1 << 20

#: A model that passes the length that it was asked for by this factor is cut off; a token has some 4 characters.
_CHARACTERS_PER_TOKEN = 16

#: Longest wait for a connection, seconds.
_CONNECT_S = 15.0

#: Of a fault's description.
_DETAIL_CHARACTERS = 300

_NO_KEY = "there is no key for the language model"
_NO_KEY_HINT = "set OPENAI_API_KEY, and OPENAI_BASE_URL for a server of your own, or leave out --llm"


@dataclass(frozen=True)
class Reply:
    """What came back of one request.

    Attributes:
        text: as far as it came.
        fault: what was wrong with the transport or the reply's end; None where it ended as it should.
        detail: the fault in words.
        final: another attempt would fail in the same way.
        retry_after_s: what the server asks to wait; None where it does not say.
        input_tokens, output_tokens: as the server counts; None where it does not.
    """

    text: str = ""
    fault: Fault | None = None
    detail: str = ""
    final: bool = False
    retry_after_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _TooLarge(Exception):
    """The body passed its limit."""


class _Late(Exception):
    """The deadline passed while the body was read."""


class Server:
    """A server that speaks the chat completions protocol, reached with the SDK's own environment variables."""

    def __init__(self, redactor: Redactor | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Read base URL and key from the environment, as the SDK does.

        Raises:
            LlmError: the SDK is not installed, or there is no key.
        """
        try:
            self._sdk = importlib.import_module("openai")
        except ImportError:
            raise LlmError(
                "the openai package is not installed", hint="pip install 'tilewright[llm]', or leave out --llm"
            ) from None
        self.redactor = redactor or Redactor()
        self._clock = clock
        self._deadline = threading.local()
        self._extra: dict[str, Any] = {"stream_options": {"include_usage": True}}
        self._length_name = "max_completion_tokens"
        self._client = self._connect()
        close_process_to_others()
        self.address = self.redactor.clean(public_url(str(self._client.base_url)))

    def _connect(self) -> OpenAI:
        """The SDK's client. A redirect would take the key elsewhere, so there are none."""
        sdk = self._sdk
        hooks = {"response": [self._limit_body]}
        try:
            http = sdk.DefaultHttpxClient(event_hooks=hooks, follow_redirects=False)
            client: OpenAI = sdk.OpenAI(max_retries=0, http_client=http)
        except sdk.OpenAIError:
            raise LlmError(_NO_KEY, hint=_NO_KEY_HINT) from None
        except Exception as error:  # a base URL or proxy that the HTTP library cannot take
            what = self.redactor.clean(f"{type(error).__name__}: {error}")[:_DETAIL_CHARACTERS]
            raise LlmError(f"the language model's server cannot be addressed: {what}") from None
        if not client.api_key.strip():  # set and empty: the SDK takes it for a key
            raise LlmError(_NO_KEY, hint=_NO_KEY_HINT)
        return client

    def close(self) -> None:
        """Close all connections; requests under way fail."""
        with contextlib.suppress(Exception):
            self._client.close()

    def models(self) -> tuple[str, ...]:
        """The models that the server lists, empty where it lists none: a look that costs nothing.

        Raises:
            LlmError: there is no server, or it refuses the key.
        """
        sdk = self._sdk
        try:
            self._deadline.end = self._clock() + 2 * _CONNECT_S
            listed = self._client.with_options(timeout=_CONNECT_S).models.list()
            return tuple(str(model.id) for model in listed.data)
        except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
            what = f"the language model's server at {self.address} refuses the key: {self._words(error)}"
            raise LlmError(what, hint=_NO_KEY_HINT) from None
        except sdk.APIConnectionError:
            what = f"there is no language model's server at {self.address}"
            raise LlmError(what, hint="OPENAI_BASE_URL says where it is; or leave out --llm") from None
        except Exception:  # not every server lists its models
            return ()

    def ask(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        reply_tokens: int,
        deadline_s: float,
        temperature: float | None = None,
    ) -> Reply:
        """Send one request and read its reply to the end, the limit or the deadline.

        Args:
            model: as the server knows it.
            messages: the conversation.
            reply_tokens: that the reply may have.
            deadline_s: seconds from now.
            temperature: passed on where it is given.

        Returns:
            the reply or its fault; this function does not raise for anything that the server does.
        """
        end = self._clock() + deadline_s
        while True:
            text: list[str] = []
            try:
                return self._stream(model, messages, reply_tokens, end, temperature, text)
            except self._sdk.BadRequestError as error:
                if not self._adapt(str(error)):
                    return self._fault_of(error, "".join(text))
            except Exception as error:
                return self._fault_of(error, "".join(text))

    def _stream(
        self,
        model: str,
        messages: Sequence[Message],
        reply_tokens: int,
        end: float,
        temperature: float | None,
        text: list[str],
    ) -> Reply:
        left = max(end - self._clock(), 0.001)
        self._deadline.end = end  # the hook on the response runs in this thread
        options = {**self._extra, self._length_name: reply_tokens}
        if temperature is not None:
            options["temperature"] = temperature
        timeout = self._sdk.Timeout(left, connect=min(_CONNECT_S, left))
        sent: Any = [{"role": item.role, "content": item.content} for item in messages]
        stream = self._client.with_options(timeout=timeout).chat.completions.create(
            model=model, messages=sent, stream=True, **options
        )
        with contextlib.closing(stream):
            return _collect(stream, text, min(REPLY_CHARACTERS, reply_tokens * _CHARACTERS_PER_TOKEN))

    def _adapt(self, message: str) -> bool:
        """Leave out, for good, what an older server rejected; False where that was not it. A rejected request
        of this kind was not answered by the model and is not counted as one."""
        if "stream_options" in message and self._extra:
            self._extra = {}
            return True
        if "max_completion_tokens" in message and self._length_name == "max_completion_tokens":
            self._length_name = "max_tokens"
            return True
        return False

    def _limit_body(self, response: Any) -> None:
        """Hook of the HTTP client: put limits between the wire and whoever reads this body, error bodies included."""
        end = getattr(self._deadline, "end", math.inf)
        response.stream = _limited(response.stream, end, self._clock)

    # Faults.

    def _fault_of(self, error: Exception, text: str) -> Reply:
        """The fault behind an exception; SDK and HTTP library wrap one in the other."""
        sdk = self._sdk
        chain = list(_causes(error))
        if any(isinstance(one, _TooLarge) for one in chain):
            detail = f"more than {_WIRE_BYTES >> 20} MB came back; the rest was not read"
            return Reply(text, Fault.TOO_LARGE, detail)
        if any(isinstance(one, _Late) for one in chain) or isinstance(error, sdk.APITimeoutError):
            return Reply(text, Fault.TIMEOUT, "the reply did not end in the time allowed")
        if isinstance(error, sdk.APIStatusError):
            return self._status_fault(error)
        if isinstance(error, UnicodeError):
            return Reply(text, Fault.INVALID_TEXT, "the reply is not UTF-8")
        if isinstance(error, sdk.APIConnectionError) or _is_transport(error):
            if text:
                return Reply(text, Fault.STREAM_CUT, "the connection ended in the middle of the reply")
            return Reply(text, Fault.CONNECTION, f"no reply: {self._words(error)}")
        if isinstance(error, sdk.APIError):
            return Reply(text, Fault.SERVER_ERROR, f"an error in the stream: {self._words(error)}")
        return Reply(text, Fault.INVALID_TEXT, f"the reply is not the protocol: {self._words(error)}")

    def _status_fault(self, error: Any) -> Reply:
        status = int(error.status_code)
        detail = f"HTTP {status}: {self._words(error)}"
        if status == 429:
            spent = getattr(error, "code", None) == "insufficient_quota"
            wait = _retry_after(error.response.headers)
            return Reply("", Fault.RATE_LIMIT, detail, final=spent, retry_after_s=wait)
        if status >= 500 or status in (408, 409):
            return Reply("", Fault.SERVER_ERROR, detail, retry_after_s=_retry_after(error.response.headers))
        return Reply("", Fault.REFUSED_REQUEST, detail, final=True)

    def _words(self, error: Exception) -> str:
        """An error's own words on one line, without credentials."""
        cause = error.__cause__ or error.__context__
        said = str(error) or type(error).__name__
        if cause is not None and not isinstance(error, self._sdk.APIStatusError):
            said = f"{said} ({type(cause).__name__})"
        return " ".join(self.redactor.clean(said).encode("utf-8", "replace").decode().split())[:_DETAIL_CHARACTERS]


def _limited(stream: Any, end: float, clock: Callable[[], float]) -> Any:
    """`stream` with a limit on its bytes and a deadline; of the class that the HTTP library takes for a stream,
    whichever of its two generations the SDK was built on."""
    base: Any = next(one for one in type(stream).__mro__ if one.__name__ == "SyncByteStream")

    class Limited(base):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            count = 0
            for chunk in stream:
                count += len(chunk)
                if count > _WIRE_BYTES:
                    raise _TooLarge
                if clock() > end:
                    raise _Late
                yield chunk

        def close(self) -> None:
            stream.close()

    return Limited()


def _collect(stream: Any, text: list[str], limit: int) -> Reply:
    """Read a stream of chunks into `text`, which the caller keeps where this raises."""
    length, refused, finish = 0, "", ""
    used: tuple[int | None, int | None] = (None, None)
    for chunk in stream:
        used = _usage(chunk) or used
        for choice in getattr(chunk, "choices", None) or ():
            delta = getattr(choice, "delta", None)
            content = getattr(delta, "content", None)
            if content is not None and not isinstance(content, str):
                raise TypeError("content that is no text")
            text.append(content or "")
            length += len(content or "")
            refused += str(getattr(delta, "refusal", None) or "")[:_DETAIL_CHARACTERS]
            finish = str(getattr(choice, "finish_reason", None) or finish)
        if length > limit:
            detail = f"the reply has more than {limit} characters; the rest was not read"
            return Reply("".join(text)[:limit], Fault.TOO_LARGE, detail)
    whole = "".join(text)
    fault, detail = _ending(whole, finish, refused[:_DETAIL_CHARACTERS])
    return Reply(whole, fault, detail, input_tokens=used[0], output_tokens=used[1])


def _ending(text: str, finish: str, refused: str) -> tuple[Fault | None, str]:
    if refused or finish == "content_filter":
        return Fault.REFUSAL, f"the model declined: {' '.join(refused.split()) or 'its server filtered the reply'}"
    if finish == "length":
        return Fault.TRUNCATED, "the model reached its token limit before its reply ended"
    if not finish:
        if text:
            return Fault.STREAM_CUT, "the stream ended without a word that the reply was whole"
        return Fault.INVALID_TEXT, "nothing that the protocol knows came back"
    return (None, "") if text.strip() else (Fault.EMPTY, "the reply has no text")


def _usage(chunk: Any) -> tuple[int | None, int | None] | None:
    usage = getattr(chunk, "usage", None)
    if usage is None:
        return None
    counts = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    first, second = (count if isinstance(count, int) and 0 <= count < 1 << 40 else None for count in counts)
    return first, second


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _is_transport(error: BaseException) -> bool:
    """An exception of the HTTP library below the SDK, or of the system below that."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in {"httpx", "httpx2", "httpcore"}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: a number, or a date; None where it says nothing that can be read."""
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000) if "retry-after-ms" in headers else _seconds(headers)
    return None


def _seconds(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    if value.strip().replace(".", "", 1).isdigit():
        return float(value)
    date = email.utils.parsedate_to_datetime(value)
    return max(0.0, date.timestamp() - time.time())
