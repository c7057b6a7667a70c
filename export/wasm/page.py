"""Writes the page beside a WebAssembly module: one HTML file that runs the network in any browser, without a network.

How the page runs a module is in network.js, how it reads a picture in reader.js, what else it does in page.js, how it
looks in page.css. It gets the module and the golden inputs as JSON; all else that it needs to know is in the module's
contract. The page of a network that reads digits holds the finder too, and reads numbers with both.
"""

from __future__ import annotations

import json
from base64 import b64encode
from html import escape
from importlib.resources import files
from string import Template

import numpy as np

from edge_mnist.bundle.reference import Reference
from edge_mnist.export.wasm.finder import describe_finder, read_settings
from edge_mnist.formats.contract import Contract
from edge_mnist.formats.table import read_contract
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.hashes import sha256

_MOST_GOLDEN_BYTES = 1 << 21
"""The most bytes of golden inputs in a page, 2 MiB, so that the page of a network with large inputs stays small."""


def write_page(reference: Reference, module: bytes) -> bytes:
    """Write the page of an int8 network.

    Args:
        reference: the golden inputs, with the oracle's logits.
        module: the WebAssembly artifact.

    Returns:
        An HTML document in UTF-8 that loads nothing.

    Raises:
        EdgeMnistError: the reference has no int8 network.
    """
    if reference.int8_logits is None:
        raise EdgeMnistError("the page runs the int8 network: export --int8")
    contract = read_contract(module, "model_int8.wasm")
    inputs = np.ascontiguousarray(contract.convert_images(reference.images))  # as the module takes them
    count = max(1, min(len(inputs), _MOST_GOLDEN_BYTES // inputs[0].size))
    logits = reference.int8_logits[:count]
    data = {
        "module": b64encode(module).decode(),
        "golden": {
            "count": count,
            "of": len(inputs),
            "inputs": b64encode(inputs[:count].tobytes()).decode(),
            "inputs_sha256": sha256(inputs[:count].tobytes()),
            "outputs_sha256": sha256(logits.tobytes()),
        },
    }
    if contract.is_pixels and reference.images.shape[1:] == (1, 28, 28) and logits.shape[1:] == (10,):  # reads digits
        data |= {
            "finder": describe_finder(np.asarray(reference.images[:count, 0], np.uint8)),
            "settings": read_settings(),
        }
    package = files("edge_mnist.export.wasm")
    style, network, reader, script, page = (
        (package / name).read_text("utf-8") for name in ("page.css", "network.js", "reader.js", "page.js", "page.html")
    )
    text = Template(page).substitute(
        title=escape(_describe(contract)),
        style=style,
        # Nothing in the JSON can end the element: neither base64 nor the reader's constants have a "<".
        data=json.dumps(data),
        network=network,
        reader=reader,
        script=script,
    )
    return text.encode()


def _describe(contract: Contract) -> str:
    """Name a network by its input and the beginning of its hash."""
    return f"edge-mnist {'x'.join(map(str, contract.input_shape))} {contract.model[:8]}"
