"""What happens to each request before and after its route: access, limits on size and rate, errors as JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware

from edge_mnist.demo.views.notices import Notices
from edge_mnist.demo.views.page.access import SECURITY_HEADERS, Gate, refuse, refuse_too_many
from edge_mnist.demo.views.page.connections import find_connection
from edge_mnist.demo.views.page.rate_limits import RateLimiter
from edge_mnist.system.errors import EdgeMnistError


@dataclass(frozen=True)
class RequestLimit:
    """How large requests to a route may be, and how often a client may send one.

    Attributes:
        max_bytes: the most bytes of the body.
        rate: requests per second in the long run.
        burst: requests at once.
    """

    max_bytes: int
    rate: float
    burst: int


LIMITS = {
    "/photo": RequestLimit(16 << 20, 1.0, 4),
    "/pad": RequestLimit(1 << 18, 25.0, 50),
    "/correct": RequestLimit(1 << 12, 5.0, 20),
    "/snapshot": RequestLimit(1 << 10, 2.0, 5),
}
"""The limits of the routes that take a POST. The pad sends a drawing while the pen moves."""


def make_middleware(gate: Gate, notices: Notices, find_port: Callable[[], int]) -> Middleware:
    """Make the middleware of the page.

    Args:
        gate: refuses requests that may not use the page.
        notices: reports failures.
        find_port: gives the port of the server, which is known when requests come.
    """
    limiters = {path: RateLimiter(limit.rate, limit.burst) for path, limit in LIMITS.items()}

    @web.middleware
    async def serve(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        connection = find_connection(request)
        refusal = gate.check(request, connection.client, find_port())
        if refusal is not None:
            return refusal
        max_bytes = LIMITS[request.path].max_bytes if request.path in LIMITS else 0
        too_large = f"too large: at most {max_bytes >> 10} KiB are accepted"
        try:
            if request.method == "POST":
                if (request.content_length or 0) > max_bytes:
                    return refuse(413, too_large)
                limiter = limiters.get(request.path)
                if limiter is not None and not limiter.find_bucket(connection.client).take():
                    return refuse_too_many()  # before the body takes memory
                await connection.read_body(request, max_bytes)
            with connection.answer():
                response = await handler(request)
                await response.prepare(request)
                await response.write_eof()
                return response
        except EdgeMnistError as error:
            return refuse(422, str(error))
        except web.HTTPRequestEntityTooLarge:
            return refuse(413, too_large)
        except web.HTTPException as error:
            return refuse(error.status, error.reason)
        except web.RequestPayloadError:
            return refuse(400, "the body is malformed")
        except ConnectionError:
            raise
        except Exception as error:
            notices.add(
                f"failure {request.path} {type(error).__name__}", f"the page failed at {request.path}: {error!r}"
            )
            return refuse(500, "this failed: the demo's stderr says why")

    return serve


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that every response has."""
    response.headers.update(SECURITY_HEADERS)
    response.headers["Server"] = "edge-mnist"
