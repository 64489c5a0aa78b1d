"""What was spent of a budget. A request is allowed before it is sent, for the most that it can cost."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from tilewright.proposers.llm.settings import Budget, Price

#: A reply of fewer tokens than this holds no kernel: no request is sent for it.
LEAST_REPLY_TOKENS = 256


class BudgetSpent(Exception):
    """No further request fits the budget; the message says which part of it is spent."""


@dataclass(frozen=True)
class Allowance:
    """Leave to send one request.

    Attributes:
        reply_tokens: that its reply may have.
        reserved_tokens: in and out, until the request is settled.
        reserved_usd: likewise.
    """

    reply_tokens: int
    reserved_tokens: int
    reserved_usd: float


def estimate_tokens(text: str) -> int:
    """Tokens of a text, from above for code and English: three bytes each."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 3)


class Ledger:
    """A budget and what was spent of it; safe to use from several threads."""

    def __init__(self, budget: Budget, price: Price | None) -> None:
        self._budget = budget
        self._price = price
        self._lock = threading.Lock()
        self._reserved_tokens = 0
        self._reserved_usd = 0.0
        self.requests = 0
        self.tokens = 0
        self.cost_usd = 0.0
        self.seconds = 0.0

    @property
    def seconds_left(self) -> float:
        """Of the time budget."""
        return max(0.0, self._budget.seconds - self.seconds)

    def allow(self, prompt_tokens: int, reply_tokens: int) -> Allowance:
        """Leave for one request, its reply no longer than what is left allows.

        Raises:
            BudgetSpent: it does not fit.
        """
        with self._lock:
            if self.requests >= self._budget.requests:
                raise BudgetSpent(f"the budget of {self._budget.requests} requests is spent")
            if self.seconds >= self._budget.seconds:
                raise BudgetSpent(f"the budget of {self._budget.seconds:g} s is spent")
            room = self._budget.tokens - self.tokens - self._reserved_tokens - prompt_tokens
            allowed = min(reply_tokens, room, self._affordable(prompt_tokens))
            if allowed < min(LEAST_REPLY_TOKENS, reply_tokens):
                raise BudgetSpent(self._what_is_short(room))
            dollars = self._price.cost(prompt_tokens, allowed) if self._price is not None else 0.0
            self.requests += 1
            self._reserved_tokens += prompt_tokens + allowed
            self._reserved_usd += dollars
            return Allowance(allowed, prompt_tokens + allowed, dollars)

    def settle(self, allowance: Allowance, tokens: int, cost_usd: float | None) -> None:
        """Put what a request did use in the place of what was reserved for it."""
        with self._lock:
            self._reserved_tokens -= allowance.reserved_tokens
            self._reserved_usd -= allowance.reserved_usd
            self.tokens += tokens
            self.cost_usd += cost_usd or 0.0

    def charge(self, tokens: int, cost_usd: float | None) -> None:
        """Count an exchange that an earlier run of the study paid."""
        with self._lock:
            self.requests += 1
            self.tokens += tokens
            self.cost_usd += cost_usd or 0.0

    def spent(self) -> str:
        """What was spent and of what, for progress and notes."""
        budget = self._budget
        parts = [f"{self.requests} of {budget.requests} requests", f"{self.tokens} of {budget.tokens} tokens"]
        if self._price is not None:
            limit = f" of ${budget.cost_usd:g}" if budget.cost_usd is not None else ""
            parts.append(f"${self.cost_usd:.4f}{limit}")
        return ", ".join([*parts, f"{self.seconds:.0f} of {budget.seconds:.0f} s"])

    def _affordable(self, prompt_tokens: int) -> int:
        """Reply tokens that the rest of the dollars pays, after the prompt."""
        limit, price = self._budget.cost_usd, self._price
        if limit is None or price is None:
            return 1 << 40
        left = limit - self.cost_usd - self._reserved_usd - price.cost(prompt_tokens, 0)
        if left < 0:
            return 0
        return int(left * 1e6 / price.output_usd) if price.output_usd else 1 << 40

    def _what_is_short(self, room: int) -> str:
        if room < LEAST_REPLY_TOKENS:
            return f"the budget of {self._budget.tokens} tokens has no room for another exchange"
        return f"the budget of ${self._budget.cost_usd:g} has no room for another exchange"
