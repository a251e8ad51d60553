"""What goes wrong between here and a server, and how long to wait before trying again.

`faults` turns whatever a client raises into a `Fault`: what the server said, without the key. `persist` repeats a call
that may be repeated; calls that cost money are never repeated here.
"""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from monosem.errors import ProviderError
from monosem.interpret.providers.keys import VARIABLES, Key

T = TypeVar("T")
CLIENTS = {"anthropic", "openai", "httpx", "httpx2", "httpcore"}  # packages whose exceptions are a server's fault
SHOWN = 300  # characters of a server's message


class Fault(Exception):
    """A call that did not end well."""

    def __init__(self, status: int | None, retry_after: float | None, message: str) -> None:
        super().__init__(message)
        self.status, self.retry_after, self.message = status, retry_after, message

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later: no answer, too many requests, or a failure of the server's own."""
        return self.status is None or self.status in (408, 409, 425, 429) or self.status >= 500

    @property
    def rejected(self) -> bool:
        """Whether the server certainly did nothing; else nobody knows what it did."""
        return self.status is not None and (self.status == 529 or (self.status < 500 and self.status != 408))


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds."""

    tries: int = 8
    first: float = 1.0
    """Before the second try; each further wait is twice as long, unless the server names one."""
    most: float = 120.0
    poll: float = 60.0
    """Between two looks at a batch."""
    settle: float = 30.0
    """After a request without an answer, before the server is asked what became of it: it may still be at work."""
    sleep: Callable[[float], None] = time.sleep

    def back_off(self, tried: int, retry_after: float | None = None) -> None:
        """Wait after the `tried`-th try: as long as the server says, else a little longer each time."""
        waited = min(self.first * 2.0 ** (tried - 1), self.most) * random.uniform(0.75, 1.0)
        self.sleep(waited if retry_after is None else retry_after)


@contextlib.contextmanager
def faults(key: Key) -> Iterator[None]:
    """Raise what a client library raises as `Fault`, the key taken out; errors of ours pass."""
    try:
        yield
    except Exception as error:
        foreign = any(kind.__module__.split(".")[0] in CLIENTS for kind in type(error).__mro__)
        if not foreign and not isinstance(error, json.JSONDecodeError):
            raise
        status = getattr(error, "status_code", None)
        message = key.redact(" ".join(str(error).split()) or type(error).__name__)
        raise Fault(status, _retry_after(error), message[:SHOWN]) from None


def persist(call: Callable[[], T], provider: str, key: Key, patience: Patience) -> T:
    """Make a call that may be repeated until it succeeds.

    Raises:
        ProviderError: the server refuses the key or the call, or goes on failing.
        Fault: what was asked for does not exist (404).
    """
    for tried in range(1, patience.tries + 1):
        try:
            with faults(key):
                return call()
        except Fault as fault:
            if fault.status == 404:
                raise
            if not fault.passing or tried == patience.tries:
                raise described(fault, provider) from None
            patience.back_off(tried, fault.retry_after)
    raise AssertionError("the last try returns or raises")


def described(fault: Fault, provider: str) -> ProviderError:
    """What a user reads of a fault that ends the work."""
    if fault.status in (401, 403):
        where = VARIABLES[provider]
        return ProviderError(f"{provider} refuses the key of {where} or the keyring: {fault.message}; give a valid one")
    if fault.status is None:
        return ProviderError(f"{provider}: no answer ({fault.message}); check the network, then give the command again")
    if fault.passing:
        return ProviderError(f"{provider} goes on failing: {fault.message}; give the same command again later")
    return ProviderError(f"{provider} refuses the request: {fault.message}")


def _retry_after(error: Exception) -> float | None:
    """Seconds that the server asks to wait, if it names any."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):  # a date is left to the back-off
            return max(0.0, float(headers[name]) * scale)
    return None
