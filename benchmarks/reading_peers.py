"""Compares the reader with RapidOCR and Tesseract: `make reading-peers`, from the checkout.

All read the same pictures and are scored in the same way, see `benchmarks/reading.py`. RapidOCR (PP-OCRv4 with the
models in the wheel of `rapidocr-onnxruntime`) needs an environment of its own, which `make reading-peers` installs into
.venv-reading-peers; Tesseract is the package tesseract-ocr of Debian.

The others are run as their users would run them on digits, and have every advantage: Tesseract is restricted to digits,
what RapidOCR reads besides digits is left out, pictures smaller than 320 pixels are enlarged for both and given a
border, and of several ways to run a tool the table has the one with the fewest wrong digits of each group. Of frames
without digits it has the ways that invent the fewest and the most. Neither marks single digits as doubtful.

The answers of the other tools are kept in .reading-peers.json, and they are not asked again about the same picture: the
script can be stopped and started anew, and with new networks only our reader reads again. Remove the file to ask anew.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import run_command
from benchmarks.reading import Case, Score, add_sources, load_cases
from edge_mnist.demo.reading.reader import Reader
from edge_mnist.system.files import write_whole
from edge_mnist.system.hashes import sha256
from edge_mnist.system.tables import make_console

FILE = Path(__file__).parent.parent / ".reading-peers.json"
"""Where the answers of the other tools are kept: lines of text by tool and version, way and hash of the picture."""
LEAST_SIDE = 320
"""Pictures whose longer side is shorter, in pixels, are enlarged for the other tools."""
PAGE_MODES = {3: "page", 6: "block", 7: "line", 10: "character", 11: "sparse"}
"""Page segmentation modes of Tesseract that suit pages, lines or single digits: the number and its name here."""
OURS = "edge-mnist"

ReadLines = Callable[[NDArray[np.uint8]], list[str]]


def enlarge(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small picture by a whole factor, with a border; another one as it is."""
    longer = max(frame.shape[:2])
    if longer >= LEAST_SIDE:
        return frame
    factor = -(-LEAST_SIDE // longer)
    large = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.copyMakeBorder(large, 20, 20, 20, 20, cv2.BORDER_REPLICATE), np.uint8)


def keep_digits(texts: list[str]) -> list[str]:
    """The digits of each text; texts without any are left out."""
    digits = (re.sub("[^0-9]", "", text) for text in texts)
    return [text for text in digits if text]


def open_tesseract(mode: int) -> ReadLines:
    """Tesseract with a page segmentation mode, restricted to digits, on one thread."""
    command = ["tesseract", "-", "-", "--psm", str(mode), "-l", "eng", "-c", "tessedit_char_whitelist=0123456789"]
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}

    def read(frame: NDArray[np.uint8]) -> list[str]:
        picture = cv2.imencode(".png", frame)[1].tobytes()
        result = subprocess.run(command, input=picture, capture_output=True, env=environment, check=True)
        return result.stdout.decode("utf-8", "replace").splitlines()

    return read


def open_rapidocr(detects: bool) -> ReadLines:
    """RapidOCR, which first finds lines in the picture, or takes all of it for one line."""
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def read(frame: NDArray[np.uint8]) -> list[str]:
        found, _ = engine(frame, use_det=detects, use_cls=detects, use_rec=True)
        return [line[1] if detects else line[0] for line in found or ()]

    return read


def open_tools() -> dict[str, dict[str, ReadLines]]:
    """The ways to run each tool, by its name and version.

    Raises:
        SystemExit: a tool is not installed.
    """
    if shutil.which("tesseract") is None:
        sys.exit("tesseract: is not installed: apt install tesseract-ocr")
    first = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    try:
        ways = {name: open_rapidocr(detects) for name, detects in (("page", True), ("line", False))}
    except ImportError:
        sys.exit("rapidocr-onnxruntime: is not installed: make reading-peers installs it into .venv-reading-peers")
    reader = Reader()
    return {
        OURS: {"page": lambda frame: list(reader.read(frame).lines)},
        f"RapidOCR {version('rapidocr-onnxruntime')}": ways,
        first.capitalize(): {name: open_tesseract(mode) for mode, name in PAGE_MODES.items()},
    }


Scores = dict[str, dict[str, dict[str, Score]]]
"""By group, tool and way to run it."""


def measure(cases: list[Case], tools: dict[str, dict[str, ReadLines]], file: Path = FILE) -> Scores:
    """Read all pictures in all ways. The other tools are asked only for answers that are not in the file yet."""
    scores: Scores = defaultdict(lambda: defaultdict(lambda: defaultdict(Score)))
    answers = json.loads(file.read_text()) if file.exists() else {}
    for tool, ways in tools.items():
        for way, read in ways.items():
            for number, case in enumerate(cases):
                if sys.stderr.isatty():
                    print(f"\r{tool}, {way}: {number} of {len(cases)} ", end="", file=sys.stderr, flush=True)
                if tool == OURS:
                    lines = read(case.frame)
                else:
                    picture = enlarge(case.frame)
                    digest = sha256(str(picture.shape).encode(), picture.tobytes())
                    known = answers.setdefault(tool, {}).setdefault(way, {})
                    if digest not in known:
                        known[digest] = read(picture)
                        write_whole(file, json.dumps(answers, indent=1).encode())
                    lines = keep_digits(known[digest])
                scores[case.group][tool][way].add(lines, case)
    return scores


def describe_errors(ways: dict[str, Score]) -> str:
    """The error rate of the best way to run a tool; where nothing is written, what it invents in a frame."""
    ranked = sorted(ways.items(), key=lambda item: item[1].wrong)
    ends = ranked[:1] if ranked[0][1].digits else [ranked[0], ranked[-1]][: len(ranked)]
    cells = []
    for way, score in ends:
        text = f"{score.wrong / score.digits:.1%}" if score.digits else f"{score.invented / score.frames:.2f} a frame"
        if score.doubtful:
            text += f", with ? {score.wrong_or_doubtful / score.digits:.1%}"
        cells.append(f"{text} ({way})" if len(ways) > 1 else text)
    return " to ".join(cells)


def describe_right(ways: dict[str, Score]) -> str:
    """The part of the frames that the best way to run a tool reads wholly and without a mistake."""
    way, score = max(ways.items(), key=lambda item: item[1].right)
    text = f"{score.right / score.frames:.1%}"
    return f"{text} ({way})" if len(ways) > 1 else text


def print_groups(title: str, scores: Scores, describe: Callable[[dict[str, Score]], str]) -> None:
    """Print what `describe` says of each tool, by group."""
    tools = list(next(iter(scores.values())))
    table = Table("group", "frames", "digits", *tools, title=title)
    for group, row in scores.items():
        one = next(iter(row[OURS].values()))
        table.add_row(group, str(one.frames), str(one.digits), *(describe(row[tool]) for tool in tools))
    make_console().print(table)


def main() -> None:
    """Read all, print a table for each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    if not any((options.truth, options.scenes, options.negatives)):
        parser.error("expected TRUTH.json, --scenes or --negatives")
    cv2.setNumThreads(1)
    tools = open_tools()
    facts = {title: measure(list(cases), tools) for title, cases in load_cases(options)}
    if options.as_json:
        print(json.dumps(facts, default=asdict))
        return
    for title, scores in facts.items():
        print_groups(f"{title}: error rates, and digits invented where nothing is written", scores, describe_errors)
        print_groups(f"{title}: frames that are read wholly and without a mistake", scores, describe_right)


if __name__ == "__main__":
    run_command(main)
