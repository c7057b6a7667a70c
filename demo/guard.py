"""Who may use the page: the Host header, the token, the origin of a request, and how often.

A page of another site that is open in the same browser can send requests here, and with a name of its own that leads
here (DNS rebinding) read the answers too: hence the checks of Host and Origin, on 127.0.0.1 as well.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
import time
from dataclasses import dataclass, field

from edge_mnist.errors import UsageError

TOKEN_VARIABLE = "EDGE_MNIST_TOKEN"
"""The environment may set the token, so that it outlives a restart."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""


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
        return self.token is None or hmac.compare_digest((given or "").encode(), self.token.encode())


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
