"""The steps of a release: what .github/workflows/release.yml runs, and `make release-check` on one machine.

    python .ci/release.py check [TAG]   version, CHANGELOG.md, CITATION.cff and the tag agree
    python .ci/release.py build DIST    one sdist, and one wheel made from it
    python .ci/release.py try DIST      install the wheel into a new environment and use it as a stranger would

It needs only Python; `build` also needs the package of that name.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = ["39021", "584288", "00869"]
"""The numbers on docs/desk.jpg, from top to bottom."""


def read_version() -> str:
    """The version that the package has, read without importing it."""
    return find(r'__version__ = "([^"]+)"', ROOT / "edge_mnist" / "__init__.py")


def find(pattern: str, path: Path) -> str:
    """The first group of the line in a file that matches a pattern."""
    match = re.search(f"^{pattern}$", path.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        sys.exit(f"{path.name}: expected a line like {pattern}, found none")
    return match[1]


def check(tag: str = "") -> None:
    """End with a line that names what differs, if the version is not the same everywhere."""
    version = read_version()
    if tag and tag != f"v{version}":
        sys.exit(f"the tag is {tag}, but edge_mnist/__init__.py has version {version}: expected v{version}")
    date = find(rf"## \[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)", ROOT / "CHANGELOG.md")
    for key, expected in (("version", version), ("date-released", date)):
        found = find(rf'{key}: "?([^"\n]+)"?', ROOT / "CITATION.cff")
        if found != expected:
            sys.exit(f"CITATION.cff: {key} is {found}, expected {expected}")
    if tag and re.search(r"^## \[Unreleased\]\s+(?!## \[)\S", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE):
        sys.exit(f"CHANGELOG.md: what is listed under [Unreleased] belongs to {version}, or to no release yet")
    print(f"version {version} of {date}{', as the tag says' if tag else ''}")


def build(folder: str) -> None:
    """Write the sdist and the wheel into a folder that must be empty or not exist."""
    if Path(folder).is_dir() and any(Path(folder).iterdir()):
        sys.exit(f"{folder}: expected an empty folder")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, str(ROOT)], check=True)
    names = sorted(path.name for path in Path(folder).iterdir())
    version = read_version()
    expected = [f"edge_mnist-{version}-py3-none-any.whl", f"edge_mnist-{version}.tar.gz"]
    if names != expected:
        sys.exit(f"{folder}: expected {', '.join(expected)}, found {', '.join(names)}")


def try_wheel(folder: str) -> None:
    """Install the wheel in `folder` where nothing else is, with an empty home, and run what a stranger would run."""
    (wheel,) = Path(folder).resolve().glob("*.whl")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        home = Path(temporary, "home")
        home.mkdir()
        left_out = ("PYTHON", "VIRTUAL_ENV", "EDGE_MNIST", "XDG_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        # A captured stdout is not a terminal; Windows would then write it in a code page without the tables' lines.
        environment |= {"HOME": str(home), "USERPROFILE": str(home), "PYTHONUTF8": "1"}
        # Not with_pip=True: that would read this process's environment instead.
        venv.create(home / "venv", with_pip=False, symlinks=os.name != "nt")
        scripts = home / "venv" / ("Scripts" if os.name == "nt" else "bin")

        def run(program: str, *arguments: str) -> str:
            print("$", program, *arguments, flush=True)
            command = [str(scripts / program), *arguments]
            result = subprocess.run(command, cwd=home, env=environment, stdout=subprocess.PIPE, encoding="utf-8")
            print(result.stdout, flush=True)
            if result.returncode:
                sys.exit(f"{program} ended with status {result.returncode}")
            return result.stdout

        run("python", "-m", "ensurepip")
        run("python", "-m", "pip", "install", "--quiet", f"{wheel}[onnx,headless]")
        if run("edge-mnist", "--version").split()[-1] != read_version():
            sys.exit(f"expected version {read_version()}")
        run("edge-mnist", "doctor")
        run("edge-mnist", "export", "--int8", "--no-verify", "--format", "onnx", "--format", "tflite")
        run("edge-mnist", "verify", "artifacts", "--images", "1000")
        lines = json.loads(run("edge-mnist", "predict", "--json", str(ROOT / "docs" / "desk.jpg")))["lines"]
        if lines != WRITTEN:
            sys.exit(f"desk.jpg: expected {' '.join(WRITTEN)}, read {' '.join(lines)}")


COMMANDS = {"check": check, "build": build, "try": try_wheel}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
