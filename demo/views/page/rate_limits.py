"""Limits how often clients may do something, by the token bucket algorithm."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field

MAX_CLIENTS = 1024
"""The most addresses that are remembered; those that have not been seen for longest are forgotten."""


@dataclass(eq=False)
class TokenBucket:
    """Limits how often something may be done.

    Attributes:
        rate: the tokens per second that the bucket gets; each token allows it once.
        burst: the most tokens that the bucket holds.
        level: the tokens in the bucket at the time `updated`.
        updated: a time in seconds on the monotonic clock.
    """

    rate: float
    burst: float
    level: float = field(init=False)
    updated: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin with a full bucket."""
        self.level, self.updated = self.burst, time.monotonic()

    def take(self) -> bool:
        """Take a token if there is one, and return whether there was."""
        now = time.monotonic()
        self.level = min(self.burst, self.level + (now - self.updated) * self.rate)
        self.updated = now
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def is_empty(self) -> bool:
        """Check whether there is no token left now."""
        return self.level + (time.monotonic() - self.updated) * self.rate < 1


class RateLimiter:
    """Limits how often each client may do something."""

    def __init__(self, rate: float, burst: float) -> None:
        """Let each client take `rate` tokens per second in the long run, and `burst` tokens at once."""
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def find_bucket(self, client: str) -> TokenBucket:
        """Find the bucket of the address of a client; that of a new client is full."""
        bucket = self._buckets.setdefault(client, TokenBucket(self._rate, self._burst))
        self._buckets.move_to_end(client)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return bucket
