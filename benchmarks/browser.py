"""Times the WebAssembly of a network beside onnxruntime-web in Chromium: `python benchmarks/browser.py`.

It runs in the checkout and needs chromium, chromedriver, npm and the development packages; npm loads onnxruntime-web
into a temporary folder. In one page the sides take turns of a tenth of a second, one input at a time and on one thread:
the module of edge-mnist, and its ONNX artifacts in onnxruntime-web's WebAssembly. What disturbs the machine disturbs
all of them alike.
"""

from __future__ import annotations

import functools
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import run_command
from edge_mnist import doctor, pipeline
from edge_mnist.bundle.reference import read_bundle
from edge_mnist.formats.table import read_contract
from edge_mnist.measure import bench
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.tables import make_console, make_table, print_table

PACKAGE = "onnxruntime-web"
"""The npm package that is measured against."""

RUNTIME_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What a browser downloads of it to run a model without a graphics processor."""

SIDES = ("edge-mnist", "onnxruntime-web int8", "onnxruntime-web float")
"""The sides in the order in which they take turns."""

PAGE = """<!doctype html><meta charset="utf-8"><title>benchmark</title>
<p id="trouble"></p>
<script src="ort.wasm.min.js"></script>
<script src="network.js"></script>
<script>
async function load(name) {
  return new Uint8Array(await (await fetch(name)).arrayBuffer());
}

// The function that computes the outputs of the input of a number, for each side.
async function openSides({ count, shape, int8, float }) {
  const [network] = await openNetworks(await load("model_int8.wasm"));
  const values = await load("inputs.bin");
  const size = network.input.length;
  const sides = [async (i) => network.run(values.subarray(i * size, (i + 1) * size))];
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = location.href.replace(/[^/]*$/, "");
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
  for (const [name, type, Values] of [["int8", int8, Uint8Array], ["float", "float32", Float32Array]]) {
    const session = await ort.InferenceSession.create(`model_${name}.onnx`, options);
    const inputs = new Values((await load(`inputs_${name}.bin`)).buffer);
    const length = inputs.length / count;
    sides.push(async (i) => {
      const input = new ort.Tensor(type, inputs.subarray(i * length, (i + 1) * length), [1, ...shape]);
      return (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]].data;
    });
  }
  return sides;
}

// The outputs of all inputs of each side, and the milliseconds of an inference in each turn of each side.
async function measure(facts, seconds) {
  const sides = await openSides(facts);
  const outputs = [];
  for (const side of sides) {
    const found = [];
    for (let i = 0; i < facts.count; ++i) found.push(...(await side(i)));
    outputs.push(found);
  }
  const turns = sides.map(() => []);
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end) {
    for (const [index, side] of sides.entries()) {
      for (const length of [20, 100]) { // what is run first fills the caches, and does not count
        const start = performance.now();
        let runs = 0, now = start;
        for (; now < start + length; now = performance.now()) {
          for (let i = 0; i < facts.group; ++i, ++runs) await side(runs % facts.count);
        }
        if (length === 100) turns[index].push((now - start) / runs);
      }
    }
  }
  return { outputs, turns };
}
</script>
"""


def install_runtime(folder: Path) -> str:
    """Install onnxruntime-web, copy the files that a browser loads into a folder, and return its version."""
    if shutil.which("npm") is None:
        raise EdgeMnistError("npm is not installed, which installs onnxruntime-web: apt install npm")
    with tempfile.TemporaryDirectory() as place:
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", PACKAGE]
        result = subprocess.run(command, cwd=place, capture_output=True, text=True)
        package = Path(place, "node_modules", PACKAGE)
        if result.returncode or not package.is_dir():
            raise EdgeMnistError(f"npm cannot install {PACKAGE}: {(result.stderr.strip() or 'no message')[:200]}")
        for name in RUNTIME_FILES:
            shutil.copy(package / "dist" / name, folder)
        return str(json.loads((package / "package.json").read_text())["version"])


def write_inputs(folder: Path) -> dict[str, Any]:
    """Write the golden inputs as each side takes them, and return what the page's script must know of them."""
    _, reference = read_bundle(folder)
    images = reference.images
    facts: dict[str, Any] = {"count": len(images), "shape": list(reference.float_graph.input_shape)}
    for name, artifact in (("", "model_int8.wasm"), ("_int8", "model_int8.onnx"), ("_float", "model_float.onnx")):
        contract = read_contract((folder / artifact).read_bytes(), artifact)
        (folder / f"inputs{name}.bin").write_bytes(contract.convert_images(images).tobytes())
        facts[name.strip("_")] = contract.input_type
    return facts


def run_page(folder: Path, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Serve a folder on this machine, run the page in Chromium, and return its version and what the page measured."""
    from tests.support.demos import browser, browser_missing

    if reason := browser_missing():
        raise EdgeMnistError(reason)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Log no requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as profile, browser(Path(profile), 800, 600) as driver:
            driver.set_script_timeout(60 + 10 * seconds)
            driver.get(f"http://127.0.0.1:{server.server_port}/benchmark.html")
            script = (
                "const done = arguments[2];"
                "measure(arguments[0], arguments[1]).then(done, (error) => done({error: String(error)}));"
            )
            result: dict[str, Any] = driver.execute_async_script(script, facts, seconds)
            result["browser"] = driver.capabilities["browserVersion"]
    finally:
        server.shutdown()
    if "error" in result:
        raise EdgeMnistError(f"the page failed: {result['error']}")
    return result


def count_bytes(folder: Path, *names: str) -> tuple[int, int]:
    """The size of files together, as they are and compressed by gzip as a web server may send them."""
    contents = [(folder / name).read_bytes() for name in names]
    return sum(map(len, contents)), sum(len(gzip.compress(content)) for content in contents)


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--seconds", default=30.0, show_default=True, help="Measure for this long.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(bundle: Path | None, seconds: float, as_json: bool) -> None:
    """Time BUNDLE, written by `export --int8 --format onnx --format wasm`; the shipped network if it is left out."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "artifacts")
        if bundle is None:
            pipeline.export_model(None, folder, int8=True, formats=["onnx", "wasm"], verify=False)
        else:
            shutil.copytree(bundle, folder)
        version = install_runtime(folder)
        (folder / "network.js").write_bytes((files("edge_mnist.export.wasm") / "network.js").read_bytes())
        (folder / "benchmark.html").write_text(PAGE, "utf-8")
        facts = write_inputs(folder) | {"group": 10}
        machine = list(doctor.examine_machine())
        measured = run_page(folder, facts, seconds)
        downloads = [count_bytes(folder, "model_int8.wasm")]
        downloads += [count_bytes(folder, *RUNTIME_FILES, f"model_{name}.onnx") for name in ("int8", "float")]
    result = summarize(measured, downloads)
    if as_json:
        print(json.dumps(result))
        return
    console = make_console()
    bench.print_machine({"machine": [vars(finding) for finding in machine], "machine_after": []}, console)
    chromium = measured["browser"].partition(".")[0]
    title = f"\nChromium {chromium}, {PACKAGE} {version}; one input at a time, one thread"
    headings = ("median\nµs", "times\nedge-mnist", "bytes", "with\ngzip", "outputs\ndiffering")
    table = make_table(title, ("side",), headings)
    for name, row in result.items():
        cells = (f"{row['median_us']:,.1f}", f"{row['ratio']:.2f}", f"{row['bytes']:,}", f"{row['gzip_bytes']:,}")
        table.add_row(name, *cells, "-" if row["differing"] is None else f"{row['differing']:,}")
    print_table(table, console)


def summarize(measured: dict[str, Any], downloads: list[tuple[int, int]]) -> dict[str, dict[str, Any]]:
    """Summarize what the page measured, by side.

    Args:
        measured: "outputs", the outputs of all inputs by side, and "turns", milliseconds of an inference by side and
            turn; turns with the same index are neighbours in time.
        downloads: the bytes by side, as they are and compressed.

    Returns:
        "median_us"; "ratio", the median over the turns of the time divided by that of the first side; "bytes" and
        "gzip_bytes"; "differing", the number of int8 outputs that are not those of the first side, None of floats.
    """
    ours = np.array(measured["outputs"][0])
    rows = {}
    for index, name in enumerate(SIDES):
        turns, outputs = measured["turns"][index], np.array(measured["outputs"][index])
        differing = None
        if "float" not in name:  # uint8 outputs are int8 outputs and 128
            differing = int((outputs - (128 if index else 0) != ours).sum())
        rows[name] = {
            "median_us": 1e3 * median(turns),
            "ratio": median(other / first for other, first in zip(turns, measured["turns"][0], strict=True)),
            "bytes": downloads[index][0],
            "gzip_bytes": downloads[index][1],
            "differing": differing,
        }
    return rows


if __name__ == "__main__":
    run_command(main)
