"""A server of the tests' own that speaks the chat completions protocol on loopback, from a script."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "sk-planted-0123456789abcdefghij"

#: What a script is made of: something that writes one response.
Act = Callable[["Handler"], None]


@dataclass
class Script:
    """What the server does with the requests, one act for each, the last one again and again; and what came."""

    acts: Sequence[Act]
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_act(self, body: dict[str, Any], key: str) -> Act:
        with self.lock:
            self.requests.append(body)
            self.keys.append(key)
            return self.acts[min(len(self.requests), len(self.acts)) - 1]

    @property
    def prompts(self) -> list[str]:
        """The last message of each request."""
        return [request["messages"][-1]["content"] for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script
    models: Sequence[str] = ("toy",)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client went away

    def do_GET(self) -> None:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in self.models]
        self.answer(200, json.dumps({"object": "list", "data": listed}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.script.next_act(body, self.headers.get("Authorization", ""))(self)
        except OSError:
            self.close_connection = True  # the client has had enough

    def answer(self, status: int, body: bytes, content: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_bytes(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, value: object) -> None:
        self.send_bytes(b"data: " + json.dumps(value).encode() + b"\n\n")

    def end_stream(self) -> None:
        self.send_bytes(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass


def chunk(text: str | None = None, finish: str | None = None, **delta: object) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "toy", "choices": [choice]}


def usage(tokens_in: int, tokens_out: int) -> dict[str, object]:
    counted = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    return {**chunk(), "choices": [], "usage": counted}


def say(text: str, *, finish: str = "stop", tokens: tuple[int, int] | None = (1000, 500)) -> Act:
    """A whole reply, in pieces."""

    def act(handler: Handler) -> None:
        handler.begin_stream()
        for start in range(0, len(text), 1000):
            handler.event(chunk(text[start : start + 1000]))
        handler.event(chunk(finish=finish))
        if tokens is not None:
            handler.event(usage(*tokens))
        handler.end_stream()

    return act


def code(source: str) -> Act:
    """A reply as it should be."""
    return say(f"Here it is.\n\n```python\n{source.rstrip()}\n```\n")


def status(number: int, message: str = "no", **headers: str) -> Act:
    body = json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()
    return lambda handler: handler.answer(number, body, **headers)


def hang(seconds: float) -> Act:
    return lambda handler: time.sleep(seconds)


def trickle(seconds: float) -> Act:
    """A reply that never stands still and never ends."""

    def act(handler: Handler) -> None:
        handler.begin_stream()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.event(chunk("# "))
            time.sleep(0.05)

    return act


def cut_after(text: str) -> Act:
    def act(handler: Handler) -> None:
        handler.begin_stream()
        if text:
            handler.event(chunk(text))
        handler.cut()

    return act


def flood(megabytes: int, *, in_one_line: bool) -> Act:
    def act(handler: Handler) -> None:
        handler.begin_stream()
        if in_one_line:
            handler.send_bytes(b"data: ")
        for _ in range(megabytes * 16):
            if in_one_line:
                handler.send_bytes(b"x" * 65536)
            else:
                handler.event(chunk("x" * 65536))
        handler.end_stream()

    return act


def raw(data: bytes) -> Act:
    def act(handler: Handler) -> None:
        handler.begin_stream()
        handler.send_bytes(data)
        handler.end_stream()

    return act


def refuse(text: str) -> Act:
    def act(handler: Handler) -> None:
        handler.begin_stream()
        handler.event(chunk(None, refusal=text))
        handler.event(chunk(finish="stop"))
        handler.end_stream()

    return act


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, *acts: Act, models: Sequence[str] = ("toy",)) -> Iterator[Script]:
    """A server that follows the script, its address and a key in the environment."""
    script = Script(acts)
    handler = type("ScriptedHandler", (Handler,), {"script": script, "models": models})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("OPENAI_MODEL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
