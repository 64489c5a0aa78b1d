"""A language model as one more source of candidates; never needed, never trusted."""

from tilewright.proposers.llm.settings import Budget, LlmError, Price, Settings, read_price
from tilewright.proposers.llm.turn import Conversation, ExchangeLog, Turn

__all__ = ["Budget", "Conversation", "ExchangeLog", "LlmError", "Price", "Settings", "Turn", "read_price"]
