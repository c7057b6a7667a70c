"""Who may use the page: checks the Host header, the token, the guesses of it, and the origin of each request.

A page of another site that is open in the same browser can send requests here, and under a name of its own that
resolves to this address (DNS rebinding) also read the responses. Therefore Host and Origin are checked on 127.0.0.1
too.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from edge_mnist.demo.views.notices import Notices
from edge_mnist.demo.views.page.rate_limits import MAX_CLIENTS, RateLimiter, TokenBucket
from edge_mnist.system.errors import UsageError

TOKEN_VARIABLE = "EDGE_MNIST_TOKEN"
"""The environment variable that may set the token, so that it stays the same after a restart."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The headers of every response."""
_TOKEN_BYTES, _MIN_TOKEN = 18, 12
"""Random bytes of a token that is made here, and the fewest characters of one that the environment sets."""
_COOKIE_SECONDS = 30 * 86400
"""How long a browser keeps the token: 30 days."""
_GUESS_RATE, _GUESS_BURST = 0.1, 10
"""Wrong tokens that one address may send: per second, and at once."""
_ALL_GUESSES_RATE, _ALL_GUESSES_BURST = 1.0, 100
"""Wrong tokens that all addresses together may send: per second, and at once."""


@dataclass(frozen=True)
class AccessRules:
    """What a request must contain.

    Attributes:
        names: the names, in lower case, that the Host header may contain besides IP addresses.
        token: the token; None if none is needed.
    """

    names: frozenset[str]
    token: str | None

    def allows_host(self, header: str) -> bool:
        """Check whether a Host header, with or without a port, is an IP address or a name of this machine."""
        name = header.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True  # DNS rebinding needs a name

    def allows_token(self, given: str | None) -> bool:
        """Check the token of a request, in a time that does not depend on how much of it is right."""
        if self.token is None:
            return True
        # A cookie may contain bytes that are not UTF-8, which aiohttp gives as lone surrogates.
        return hmac.compare_digest((given or "").encode(errors="surrogatepass"), self.token.encode())


def make_rules(host: str) -> AccessRules:
    """Make the rules of a server that listens on an address: a token is needed unless only this machine reaches it.

    Raises:
        UsageError: the token in the environment is too short.
    """
    machine = socket.gethostname().lower()
    names = {"localhost", host.lower(), machine, f"{machine.partition('.')[0]}.local"} - {"0.0.0.0", "::", ""}
    if _is_loopback(host):
        return AccessRules(frozenset(names), None)
    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(_TOKEN_BYTES)
    if len(token) < _MIN_TOKEN:
        raise UsageError(f"{TOKEN_VARIABLE}: has {len(token)} characters, expected {_MIN_TOKEN} or more")
    return AccessRules(frozenset(names), token)


def _is_loopback(host: str) -> bool:
    """Check whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def find_link_host(host: str) -> str:
    """Find an address for a link to this machine, given the address that the server listens on."""
    if host not in ("0.0.0.0", "::", ""):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # this only chooses the interface: a datagram socket sends nothing yet
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


class GuessLimiter:
    """Counts wrong tokens, so that nobody can try many.

    A page that was left open while the demo was restarted sends the same old token again and again: that is one guess.
    The guesses of others do not affect a client that has sent the right token before.
    """

    def __init__(self) -> None:
        """Begin without guesses."""
        self._all = TokenBucket(_ALL_GUESSES_RATE, _ALL_GUESSES_BURST)
        self._clients = RateLimiter(_GUESS_RATE, _GUESS_BURST)
        self._known_clients: OrderedDict[str, None] = OrderedDict()
        self._wrong: deque[bytes] = deque(maxlen=MAX_CLIENTS)

    def is_blocked(self, client: str) -> bool:
        """Check whether a client must wait before its token is looked at."""
        is_known = client in self._known_clients
        return self._clients.find_bucket(client).is_empty() or (not is_known and self._all.is_empty())

    def add_right(self, client: str) -> None:
        """Remember that a client has sent the right token."""
        self._known_clients[client] = None
        self._known_clients.move_to_end(client)
        if len(self._known_clients) > MAX_CLIENTS:
            self._known_clients.popitem(last=False)

    def add_wrong(self, client: str, token: str) -> None:
        """Count a wrong token of a client."""
        digest = hashlib.sha256(f"{client} {token}".encode(errors="surrogatepass")).digest()
        if digest not in self._wrong:
            self._wrong.append(digest)
            self._clients.find_bucket(client).take()
            self._all.take()


class Gate:
    """Refuses the requests that may not use the page."""

    def __init__(self, rules: AccessRules, notices: Notices) -> None:
        """Begin without guesses; `notices` reports who sends too many wrong tokens."""
        self._rules, self._notices = rules, notices
        self._guesses = GuessLimiter()

    def check(self, request: web.Request, client: str, port: int) -> web.Response | None:
        """Check a request.

        Args:
            request: the request; its body is not looked at.
            client: the address of the client.
            port: the port of the server, which the name of the cookie contains.

        Returns:
            The response if the request is refused, or if it is redirected to set the cookie; None if it may be served.
        """
        host = request.headers.get("Host", "")
        if not self._rules.allows_host(host):
            return refuse(403, "this machine is not known by that name: use its address, or localhost")
        cookie = f"edge_mnist_{port}"
        token = _find_token(request, cookie)
        if self._rules.token is not None and token and self._guesses.is_blocked(client):
            self._notices.add(
                "guesses", f"the page refuses tokens for some time: too many wrong ones, the last from {client}"
            )
            seconds = round(1 / _GUESS_RATE)
            return refuse(429, f"too many wrong tokens: wait {seconds} seconds", {"Retry-After": str(seconds)})
        if not self._rules.allows_token(token):
            if token:
                self._guesses.add_wrong(client, token)
            reason = "the link that the demo printed contains a token, which is missing here or wrong"
            return refuse(401, reason, {"WWW-Authenticate": 'Bearer realm="edge-mnist"'})  # RFC 6750, section 3
        self._guesses.add_right(client)
        if "token" in request.query and self._rules.token is not None:
            response = web.Response(status=303, headers={"Location": "/"})
            response.set_cookie(cookie, self._rules.token, httponly=True, samesite="Strict", max_age=_COOKIE_SECONDS)
            return response
        origin = request.headers.get("Origin")
        if request.method == "POST" and origin is not None and origin.partition("://")[2] != host:
            return refuse(403, "requests of other sites are refused")
        return None


def refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Make a response with a status, further headers and, as JSON, an error that the page shows."""
    return web.json_response({"error": reason}, status=status, headers=headers)


def refuse_too_many() -> web.Response:
    """Make the response to a client that sends requests too fast."""
    return refuse(429, "too many requests: wait a second", {"Retry-After": "1"})


def _find_token(request: web.Request, cookie: str) -> str | None:
    """Find the token of a request in the header Authorization, else in its query, else in the cookie of this name."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return request.query.get("token") or request.cookies.get(cookie)
