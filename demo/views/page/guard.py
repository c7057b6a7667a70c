"""Who may use the page: the Host header, the token, guesses of it, the origin of a request, and how often.

A page of another site that is open in the same browser can send requests here, and with a name of its own that leads
here (DNS rebinding) read the answers too: hence the checks of Host and Origin, on 127.0.0.1 as well.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from edge_mnist.system.errors import UsageError

TOKEN_VARIABLE = "EDGE_MNIST_TOKEN"
"""The environment may set the token, so that it outlives a restart."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-DemoOptions": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""

_CLIENTS = 1024
"""Addresses that are remembered at most; those that were not seen for longest are forgotten."""
_GUESSES = (0.1, 10)
"""Wrong tokens of one address: a second, and at once."""
_GUESSES_IN_ALL = (1.0, 100)


@dataclass(frozen=True)
class Access:
    """What a request must bring.

    Attributes:
        names: that the Host header may hold besides addresses, in lower case.
        token: None if none is needed.
    """

    names: frozenset[str]
    token: str | None

    def knows_host(self, header: str) -> bool:
        """Whether a Host header, with or without a port, is an address or a name of this machine."""
        name = header.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True  # an address cannot be rebound

    def knows_token(self, given: str | None) -> bool:
        """Whether a request's token is the right one; compared in a time that does not tell how much of it is right."""
        if self.token is None:
            return True
        # A cookie may hold bytes that are no UTF-8, which aiohttp gives as lone surrogates.
        return hmac.compare_digest((given or "").encode(errors="surrogatepass"), self.token.encode())


def access(host: str) -> Access:
    """What requests to a server that listens on `host` must bring: beyond this machine, a token.

    Raises:
        UsageError: the token in the environment is too short.
    """
    here = socket.gethostname().lower()
    names = frozenset({"localhost", host.lower(), here, f"{here.partition('.')[0]}.local"} - {"0.0.0.0", "::", ""})
    if is_local(host):
        return Access(names, None)
    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(18)
    if len(token) < 12:
        raise UsageError(f"{TOKEN_VARIABLE}: has {len(token)} characters, expected 12 or more")
    return Access(names, token)


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def reachable(host: str) -> str:
    """An address under which others reach this machine, for a link."""
    if host not in ("0.0.0.0", "::", ""):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # chooses the interface; a datagram socket sends nothing yet
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


@dataclass(eq=False)
class Bucket:
    """How often something may be done: `rate` a second, and `burst` at once.

    Attributes:
        rate: of refilling, a second.
        burst: what the bucket holds.
    """

    rate: float
    burst: float
    level: float = field(init=False)
    filled: float = field(init=False)

    def __post_init__(self) -> None:
        """A bucket begins full."""
        self.level, self.filled = self.burst, time.monotonic()

    def take(self) -> bool:
        """Take one, if there is one."""
        now = time.monotonic()
        self.level = min(self.burst, self.level + (now - self.filled) * self.rate)
        self.filled = now
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def is_empty(self) -> bool:
        """Whether nothing can be taken now."""
        return self.level + (time.monotonic() - self.filled) * self.rate < 1


class Buckets:
    """A bucket for each client."""

    def __init__(self, rate: float, burst: float) -> None:
        """With the rate and the burst of each bucket."""
        self._sizes = rate, burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, client: str) -> Bucket:
        """The bucket of a client's address; a new one is full."""
        bucket = self._buckets.setdefault(client, Bucket(*self._sizes))
        self._buckets.move_to_end(client)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        return bucket


class Guesses:
    """Counts wrong tokens, so that nobody can try many.

    A page that was left open while the demo began anew sends one old token again and again: that is one guess. A client
    that had the right token before does not suffer from the guesses of others.
    """

    def __init__(self) -> None:
        """No token was guessed so far."""
        self._in_all, self._clients = Bucket(*_GUESSES_IN_ALL), Buckets(*_GUESSES)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._wrong: deque[bytes] = deque(maxlen=_CLIENTS)

    def are_used_up(self, client: str) -> bool:
        """Whether a client must wait before its token is looked at."""
        return self._clients.of(client).is_empty() or (client not in self._known and self._in_all.is_empty())

    def add_right(self, client: str) -> None:
        """A client had the right token."""
        self._known[client] = None
        self._known.move_to_end(client)
        if len(self._known) > _CLIENTS:
            self._known.popitem(last=False)

    def add_wrong(self, client: str, token: str) -> None:
        """A client had a wrong token."""
        digest = hashlib.sha256(f"{client} {token}".encode(errors="surrogatepass")).digest()
        if digest not in self._wrong:
            self._wrong.append(digest)
            self._clients.of(client).take()
            self._in_all.take()
