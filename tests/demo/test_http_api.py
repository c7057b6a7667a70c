"""The documented HTTP interface: demo/web/openapi.json says what a running demo does, and the docs' curl lines work."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mnist import __version__
from edge_mnist.demo.options import PageOptions
from edge_mnist.demo.sources.capture import SourceState
from edge_mnist.demo.views.page import access, broadcast
from edge_mnist.demo.views.page.middleware import LIMITS
from edge_mnist.demo.views.page.server import PageView
from tests.demo.test_page import MODEL, TOKEN, encode_png, make_result
from tests.support.demos import draw_doubtful_number

validation = pytest.importorskip("openapi_spec_validator", reason="pip install openapi-spec-validator")
jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[2]
OPENAPI = json.loads((ROOT / "demo" / "web" / "openapi.json").read_text())
OPERATIONS = {
    (method.upper(), path): found for path, item in OPENAPI["paths"].items() for method, found in item.items()
}

DRAWING = encode_png(255 - np.asarray(make_result(2).frame.image)[4:])
PHOTOGRAPH = encode_png(draw_doubtful_number())
Answer = tuple[int, http.client.HTTPMessage, bytes]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PageView]:
    """A page for which a token is needed."""
    monkeypatch.setenv(access.TOKEN_VARIABLE, TOKEN)
    with closing(PageView(PageOptions("0.0.0.0", 0, tmp_path), MODEL, "test", None, lambda line: None)) as page:
        yield page


def ask(
    page: PageView,
    method: str,
    path: str,
    body: bytes | None = None,
    token: str = TOKEN,
    client: int = 1,
    **headers: str,
) -> Answer:
    """Send a request; of an endless response only the first line is received."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60, source_address=(f"127.0.0.{client}", 0))
    with closing(connection):
        given = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, body, given | {name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        is_endless = answer.headers.get_content_type() == "text/event-stream"
        return answer.status, answer.headers, answer.readline() if is_endless else answer.read()


def send_malformed_request(page: PageView, method: str, path: str) -> Answer:
    """Send a request whose body is not in the form that its head promises."""
    head = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked"
    with closing(socket.create_connection(("127.0.0.1", page.port), 10)) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n\r\nno length\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.headers, answer.read()


def repeat(page: PageView, method: str, path: str) -> Answer:
    """Send a request until there are too many, or another wrong token until there are too many."""

    def send(number: int) -> Answer:
        body = b"no image" if method == "POST" else None
        return ask(page, method, path, body, TOKEN if body else f"a-wrong-token-{number}", client=2)

    with ThreadPoolExecutor(8) as clients:
        return next(answer for answer in clients.map(send, range(100)) if answer[0] == 429)


def fail(page: PageView, method: str, path: str) -> Answer:
    """Send a request for which the reader fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page._uploads, "_open_reader", lambda model: 1 / 0)
        return ask(page, method, path, SHOWN[path])


def lose_camera(page: PageView, method: str, path: str) -> Answer:
    """Ask after the camera was lost."""
    result = make_result(3)
    object.__setattr__(result, "state", SourceState("lost", "camera 0: no picture for 3 s"))
    object.__setattr__(result, "is_new", False)
    page.show(result)
    return ask(page, method, path)


SHOWN = {"/photo": PHOTOGRAPH, "/pad": DRAWING}
"""An image for each path that takes one."""
CAUSES: dict[int, Callable[[PageView, str, str], Answer]] = {
    200: lambda page, method, path: ask(page, method, path, SHOWN.get(path)),
    400: send_malformed_request,
    401: lambda page, method, path: ask(page, method, path, SHOWN.get(path), token="another-token"),
    403: lambda page, method, path: ask(page, method, path, SHOWN.get(path), Host="evil.example"),
    413: lambda page, method, path: ask(page, method, path, bytes(LIMITS[path].max_bytes + 1)),
    415: lambda page, method, path: ask(page, method, path, b"--x--", Content_Type="multipart/form-data; boundary=x"),
    422: lambda page, method, path: ask(page, method, path, b"no image"),
    429: repeat,
    500: fail,
    503: lose_camera,
}
"""What brings about each status."""


def resolve(found: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference within the file."""
    while "$ref" in found:
        reference, found = found["$ref"], OPENAPI
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    return found


def close_objects(schema: Any) -> Any:
    """Refuse properties that a schema does not name, so that none is left undocumented."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: close_objects(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "required" in schema:
        found.setdefault("additionalProperties", False)
    return found


def check_schema(content: Any, schema: dict[str, Any]) -> None:
    """Check a content against a schema of the file."""
    root = {**close_objects(schema), "components": close_objects(OPENAPI["components"])}
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(root, format_checker=formats).validate(content)


def check_answer(answer: Answer, response: dict[str, Any]) -> None:
    """Check the headers and the content of an answer against what the file says of its status."""
    _, headers, body = answer
    for name, header in response.get("headers", {}).items():
        check_schema(headers[name], header["schema"])
    kind = headers.get_content_type()
    schema = response["content"][kind]["schema"]
    if kind == "application/json":
        check_schema(json.loads(body), schema)
    elif kind == "text/event-stream":
        assert schema["contentMediaType"] == "application/json"
        check_schema(json.loads(body.removeprefix(b"data: ")), schema["contentSchema"])


def test_the_file_is_valid_openapi_and_the_page_serves_it(page: PageView) -> None:
    validation.validate(OPENAPI)
    status, headers, body = ask(page, "GET", "/openapi.json")
    assert (status, json.loads(body)) == (200, OPENAPI)
    assert headers.get_content_type() == "application/json" and headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("operation", "status"), [(o, s) for o, found in OPERATIONS.items() for s in found["responses"]], ids=str
)
def test_each_response_that_is_documented_is_what_the_server_sends(
    operation: tuple[str, str], status: str, page: PageView
) -> None:
    page.show(make_result(1))
    answer = CAUSES[int(status)](page, *operation)
    assert answer[0] == int(status), answer[2]
    check_answer(answer, resolve(OPERATIONS[operation]["responses"][status]))


def test_a_drawing_without_ink_and_a_demo_without_a_picture_are_as_documented(page: PageView) -> None:
    empty = ask(page, "POST", "/pad", encode_png(np.zeros((112, 112), np.uint8)))
    assert json.loads(empty[2]) == {"probabilities": None}
    check_answer(empty, OPERATIONS["POST", "/pad"]["responses"]["200"])
    check_answer(ask(page, "GET", "/events"), OPERATIONS["GET", "/events"]["responses"]["200"])
    opening = ask(page, "GET", "/health")
    assert opening[0] == 503 and json.loads(opening[2])["state"] == "opening"
    check_answer(opening, OPERATIONS["GET", "/health"]["responses"]["503"])


def test_a_property_that_is_not_documented_is_noticed() -> None:
    with pytest.raises(jsonschema.ValidationError, match="'more' was unexpected"):
        check_schema({"error": "x", "more": 1}, {"$ref": "#/components/schemas/Error"})


def test_the_limits_that_are_documented_are_those_of_the_server() -> None:
    for path in SHOWN:
        operation, limit = OPERATIONS["POST", path], LIMITS[path]
        sizes = {content["schema"]["maxLength"] for content in operation["requestBody"]["content"].values()}
        assert sizes == {limit.max_bytes}
        size = f"{limit.max_bytes >> 20} MiB" if limit.max_bytes >> 20 else f"{limit.max_bytes >> 10} KiB"
        text = operation["description"]
        rate = "one a second" if limit.rate == 1 else f"{limit.rate:g} a second"
        assert size in text and f"of one address {limit.burst} requests at once, then {rate}" in text


def test_the_health_names_the_state_and_notices_that_no_frame_is_read(
    page: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.show(make_result(1))
    status, _, body = ask(page, "GET", "/health")
    health = json.loads(body)
    assert (status, health["ok"], health["state"], health["version"]) == (200, True, "live", __version__)
    status, _, body = lose_camera(page, "GET", "/health")
    health = json.loads(body)
    assert (status, health["ok"], health["state"]) == (503, False, "lost") and "no picture" in health["trouble"]
    page.show(make_result(4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broadcast, "_STALLED_SECONDS", 0.1)  # three frames take 0.1 s too
        time.sleep(0.2)
        status, _, body = ask(page, "GET", "/health")
    assert (status, json.loads(body)["state"]) == (503, "stalled")
    assert ask(page, "GET", "/health")[0] == 200


def test_the_token_is_taken_from_the_header_and_compared_in_constant_time(
    page: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = access.hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    assert ask(page, "GET", "/health", token="")[0] == 401
    for scheme in ("Bearer", "bearer", "BEARER "):
        assert ask(page, "GET", "/openapi.json", token="", Authorization=f"{scheme} {TOKEN}")[0] == 200
    cookie = f"edge_mnist_{page.port}={TOKEN}"
    for wrong in (f"Bearer {TOKEN}x", "Bearer", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN):
        assert ask(page, "GET", "/openapi.json", token="", Authorization=wrong)[0] == 401, wrong
    assert ask(page, "GET", "/openapi.json", token="", Authorization="Bearer wrong-token", Cookie=cookie)[0] == 401
    assert ask(page, "GET", "/openapi.json", token="", Authorization="Basic x", Cookie=cookie)[0] == 200
    assert len(compared) == 11 and {right for _, right in compared} == {TOKEN.encode()}
    assert ask(page, "POST", "/pad", DRAWING, Origin="https://evil.example")[0] == 403


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_lines_of_the_docs_work(page: PageView) -> None:
    page.show(make_result(1))
    text = (ROOT / "docs" / "http-json-mqtt.md").read_text()
    lines = re.findall(r"^    (curl .*http://HOST:8090(/\S*).*)$", text, re.MULTILINE)
    assert [path for _, path in lines] == list(OPENAPI["paths"])
    variables = {**os.environ, access.TOKEN_VARIABLE: TOKEN}
    for line, path in lines:
        command = line.replace("http://HOST:8090", f"http://127.0.0.1:{page.port}").replace("digit.png", "-")
        command = command.replace("photo.jpg", "docs/desk.jpg")
        process = subprocess.Popen(
            command, shell=True, cwd=ROOT, env=variables, text=False, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        if path == "/events":
            assert process.stdout is not None
            line_received = process.stdout.readline()
            assert json.loads(line_received.removeprefix(b"data: "))["state"] == "live"
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            process.communicate(timeout=10)
            continue
        output, errors = process.communicate(DRAWING, timeout=60)
        assert process.returncode == 0, errors
        check_schema(json.loads(output), resolve(OPERATIONS["POST" if path in SHOWN else "GET", path]
                     ["responses"]["200"])["content"]["application/json"]["schema"])  # fmt: skip
