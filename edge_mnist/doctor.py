"""Examines what this machine has for edge-mnist and what it lacks, and says what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_mnist.system.errors import choose_opencv_build, first_line, format_install_command

State = Literal["good", "lacking", "broken"]

_MIN_DISK = 200 << 20
"""The bytes of free disk space below which a remedy is given: 200 MiB, a choice of ours."""
_MIN_MEMORY = 100 << 20
"""The bytes of available memory below which a remedy is given: 100 MiB, a choice of ours."""
_RUNS = 200
"""The number of single images that the network is timed on."""

_ARM_FEATURES = {"asimddp": "dot product", "i8mm": "int8 matrix product", "asimd": "NEON"}
"""The instructions for int8 on ARM, by their flags in /proc/cpuinfo."""
_X86_FEATURES = {"avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX-512 VNNI", "avx2": "AVX2"}
"""The instructions for int8 on x86, by their flags in /proc/cpuinfo."""
_THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "at the soft temperature limit"}
"""What each bit of `vcgencmd get_throttled` means; 16 bits higher it means that this has happened since the start.

Source: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled"""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the name of what was checked.
        state: "good"; "lacking" if other things work without it; "broken" if no digit can be read until it is repaired.
        text: what was found.
        remedy: what to do about it; empty if the state is "good".
    """

    name: str
    state: State
    text: str
    remedy: str = ""


def examine(folder: Path | None = None) -> Iterator[Finding]:
    """Make all checks, one after the other.

    Args:
        folder: the folder whose disk is checked; None for the current one.
    """
    yield check_python()
    numpy = check_numpy()
    yield numpy
    if numpy.state == "broken":  # all other checks need it
        return
    yield check_opencv()
    yield check_runtime()
    yield from _check_packages()
    yield check_processor(_read("/proc/cpuinfo"), platform.machine())
    yield from check_raspberry_pi()
    yield from check_cameras()
    yield check_window()
    yield from check_memory_and_disk(folder or Path.cwd())


def check_python() -> Finding:
    """Check the version of Python that runs this process."""
    found = f"{platform.python_version()}, {8 * struct.calcsize('P')} bits, {sys.executable}"
    if struct.calcsize("P") < 8:
        return Finding("Python", "broken", found, "there are no wheels for 32 bits: install a 64-bit system")
    if not (3, 10) <= sys.version_info < (3, 15):
        return Finding("Python", "broken", found, "expected 3.10 to 3.14")
    return Finding("Python", "good", found)


def check_numpy() -> Finding:
    """Check that NumPy can be imported."""
    try:
        import numpy
    except ImportError as error:
        return Finding("NumPy", "broken", first_line(error), "pip install --force-reinstall numpy")
    return Finding("NumPy", "good", numpy.__version__)


def check_opencv() -> Finding:
    """Check that OpenCV can be imported and that only one build of it is installed."""
    builds = _find_opencv_builds()
    try:
        import cv2
    except ImportError as error:
        text = first_line(error)
        if "libGL" in text:
            return Finding(
                "OpenCV", "broken", text, "apt install libgl1, or pip install opencv-python-headless instead"
            )
        if "numpy" in text and builds:
            return Finding(
                "OpenCV", "broken", text, "it was built for another NumPy: pip install --upgrade numpy " + builds[0]
            )
        return Finding("OpenCV", "broken", text, format_install_command(*choose_opencv_build()))
    if len(builds) > 1:
        command = format_install_command(*choose_opencv_build())
        remedy = f"they overwrite each other: pip uninstall {' '.join(builds)}, then {command}"
        return Finding("OpenCV", "lacking", f"{cv2.__version__}: {' and '.join(builds)}", remedy)
    return Finding("OpenCV", "good", f"{cv2.__version__}, {builds[0] if builds else 'of the system'}")


def check_runtime() -> Finding:
    """Check the TFLite runtime by running the shipped model on drawn digits."""
    import numpy as np

    from edge_mnist import runtime as runtimes
    from edge_mnist.data import strokes
    from edge_mnist.pretrained import SHIPPED_INT8
    from edge_mnist.system.errors import EdgeMnistError

    try:
        classifier = runtimes.load(SHIPPED_INT8)
    except EdgeMnistError as error:
        return Finding("TFLite", "broken", str(error), "pip install ai-edge-litert")
    drawn = strokes.draw(100, seed=9)
    right = float((classifier.predict(drawn.images) == drawn.labels).mean())
    seconds = []
    for index in range(_RUNS):
        image = np.ascontiguousarray(drawn.images[index % 100][None])
        start = time.perf_counter()
        classifier.outputs(image)
        seconds.append(time.perf_counter() - start)
    text = f"{classifier.runtime}; reads {right:.0%} of drawn digits, {1e3 * statistics.median(seconds):.3f} ms each"
    if right < 0.8:
        return Finding(
            "TFLite", "broken", text, "the model or the runtime is damaged: pip install --force-reinstall edge-mnist"
        )
    if "without XNNPACK" in classifier.runtime or classifier.runtime.startswith("tflite"):
        return Finding("TFLite", "lacking", text, "slower without XNNPACK: pip install --upgrade ai-edge-litert")
    return Finding("TFLite", "good", text)


def _check_packages() -> Iterator[Finding]:
    """Check whether the packages are installed that only some commands need."""
    for name, package, extra, use in (
        ("Pillow", "pillow", choose_opencv_build()[1], "reading pictures"),
        ("aiohttp", "aiohttp", choose_opencv_build()[1], "the demo's page"),
        ("ONNX Runtime", "onnxruntime", "onnx", "ONNX models"),
        ("PyTorch", "torch", "train", "training and TorchScript"),
        ("Wasmtime", "wasmtime", "wasm", "WebAssembly models"),
        ("paho-mqtt", "paho-mqtt", "mqtt", "demo --mqtt"),
    ):
        found = _find_version(package)
        if found:
            yield Finding(name, "good", found)
        else:
            yield Finding(name, "lacking", f"not installed; for {use}", format_install_command(package, extra))


def check_processor(information: str, machine: str) -> Finding:
    """Find the processor and its instructions for int8.

    Args:
        information: the text of /proc/cpuinfo.
        machine: the architecture, as `platform.machine` names it.
    """
    fields = dict(_parse_fields(information))
    flags = (fields.get("Features") or fields.get("flags") or "").split()
    is_arm = machine in ("aarch64", "arm64", "armv7l", "armv6l")
    features = _ARM_FEATURES if is_arm else _X86_FEATURES
    found = [feature for flag, feature in features.items() if flag in flags]
    name = fields.get("model name") or fields.get("Model") or machine
    text = f"{name.strip()}, {os.cpu_count()} cores, {', '.join(found) or 'no int8 instructions known'}"
    if flags and is_arm and "asimddp" not in flags:
        return Finding("Processor", "good", f"{text}; without dot products int8 takes about twice as long")
    return Finding("Processor", "good", text)


def examine_machine() -> Iterator[Finding]:
    """Check what measured speeds depend on: the processor, its load, its clock, the power and heat of a board."""
    yield check_processor(_read("/proc/cpuinfo"), platform.machine())
    if hasattr(os, "getloadavg"):
        yield check_load(os.getloadavg()[0], os.cpu_count() or 1)
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    if governor:
        yield check_governor(governor)
    yield from check_raspberry_pi()


def check_load(average: float, cores: int) -> Finding:
    """Check how busy the processor is.

    Args:
        average: the number of processes that ran or waited in the last minute, on average.
        cores: the number of cores.
    """
    if average > 0.5 * cores:
        remedy = "other programs run: what is timed now is slower, and unsteady"
        return Finding("Load", "lacking", f"{average:.2f} on {cores} cores", remedy)
    return Finding("Load", "good", f"{average:.2f} on {cores} cores")


def check_governor(governor: str) -> Finding:
    """Check what sets the clock of the processor (https://docs.kernel.org/admin-guide/pm/cpufreq.html)."""
    if governor == "performance":
        return Finding("Governor", "good", governor)
    remedy = (
        "figures are steadier with: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    )
    return Finding("Governor", "lacking", governor, remedy)


def check_raspberry_pi() -> Iterator[Finding]:
    """Check the power and the heat of a Raspberry Pi; on other machines there is nothing to check."""
    model = _read("/proc/device-tree/model").strip("\0\n ")
    if "Raspberry Pi" not in model:
        return
    yield Finding("Board", "good", model)
    if shutil.which("vcgencmd") is not None:
        command = ["vcgencmd", "get_throttled"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            answer = ""
        yield check_throttling(answer)
    heat = _read("/sys/class/thermal/thermal_zone0/temp").strip()
    if heat.isdigit():
        yield Finding("Temperature", "good", f"{int(heat) / 1000:.0f} °C; it slows down from 80 °C on")


def check_throttling(answer: str) -> Finding:
    """Check the output of `vcgencmd get_throttled`, such as throttled=0x50005."""
    try:
        bits = int(answer.strip().partition("=")[2], 16)
    except ValueError:
        return Finding(
            "Power", "lacking", f"unknown: {answer.strip()!r}", "run vcgencmd get_throttled as a user of group video"
        )
    now = [event for bit, event in _THROTTLED.items() if bits >> bit & 1]
    earlier = [event for bit, event in _THROTTLED.items() if bits >> (bit + 16) & 1 and event not in now]
    if not now and not earlier:
        return Finding("Power", "good", "never throttled since the start")
    parts = [*(f"{event} now" for event in now), *(f"{event} earlier" for event in earlier)]
    remedy = "use the power supply made for this board" if bits & 0x10001 else "give it a heat sink or a fan"
    return Finding("Power", "lacking", ", ".join(parts), remedy)


def check_cameras() -> Iterator[Finding]:
    """Check each camera by taking frames from it."""
    try:
        from edge_mnist.demo.sources import cameras as found
    except ImportError:
        yield Finding("Cameras", "lacking", "not checked: OpenCV does not load", "see OpenCV")
        return
    devices = found.list_devices()
    for device in devices:
        name = f"{device.path}"
        if device.is_csi:
            yield Finding(name, "good", f"{device.name}: a module on the camera connector, see picamera2")
            continue
        try:
            yield Finding(name, "good", f"{device.name}: {found.probe(device, found.CameraSettings())}")
        except found.SourceLost as error:
            yield Finding(
                name,
                "lacking",
                f"{device.name}: {error}",
                "close other programs that use it; if access is denied, join the group video",
            )
    if not devices:
        yield Finding("Cameras", "lacking", "no video device", "plug one in; demo --camera sample works without one")
    if any(device.is_csi for device in devices):
        yield check_picamera2(importlib.import_module)


def check_picamera2(import_module: Callable[[str], object]) -> Finding:
    """Check whether picamera2 can be imported by the function `import_module`, which takes the name of a module."""
    try:
        import_module("picamera2")
    except ValueError as error:  # "numpy.dtype size changed": Debian's was built for NumPy 1
        return Finding(
            "picamera2", "lacking", first_line(error), "it was built for another NumPy: pip install 'numpy<2'"
        )
    except ImportError as error:
        remedy = "apt install python3-picamera2, and make the venv with --system-site-packages"
        return Finding("picamera2", "lacking", first_line(error), remedy)
    return Finding("picamera2", "good", _find_version("picamera2") or "of the system")


def check_window() -> Finding:
    """Check whether the demo can open a window."""
    try:
        from edge_mnist.demo.views import window
    except ImportError:
        return Finding("Window", "lacking", "OpenCV does not load", "see OpenCV")
    reason, remedy = window.explain_unavailable(), "demo --view web shows it in a browser"
    if reason and len(_find_opencv_builds()) > 1:  # they overwrite each other, which must be repaired first
        remedy = "see OpenCV"
    elif reason == window.NO_GUI and choose_opencv_build()[0] == "opencv-python":
        remedy = window.BUILD_WITH_GUI
    if reason:
        return Finding("Window", "lacking", reason, remedy)
    return Finding("Window", "good", "a display is there and OpenCV has windows")


def check_memory_and_disk(folder: Path) -> Iterator[Finding]:
    """Check the available memory, and the free space on the disk of a folder."""
    fields = dict(_parse_fields(_read("/proc/meminfo")))
    if "MemAvailable" in fields and "MemTotal" in fields:
        total, free = (int(fields[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
        text = f"{free >> 20:,} of {total >> 20:,} MB available"
        if free < _MIN_MEMORY:
            yield Finding("Memory", "lacking", text, "end other programs; the system without a desktop needs less")
        else:
            yield Finding("Memory", "good", text)
    free = shutil.disk_usage(folder).free
    text = f"{free >> 20:,} MB free at {folder}"
    if free < _MIN_DISK:
        yield Finding("Disk", "lacking", text, "recordings and snapshots fill it: make room")
    elif not os.access(folder, os.W_OK):
        yield Finding("Disk", "lacking", f"{folder} may not be written", "go to a folder of your own")
    else:
        yield Finding("Disk", "good", text)


def _parse_fields(text: str) -> Iterator[tuple[str, str]]:
    """Parse the lines `name: value` of a file in /proc."""
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _find_opencv_builds() -> list[str]:
    """Find the packages of OpenCV that are installed. All of them write the same files."""
    return [
        f"opencv-{kind}"
        for kind in ("python", "python-headless", "contrib-python", "contrib-python-headless")
        if _find_version(f"opencv-{kind}")
    ]


def _read(path: str) -> str:
    """Read a file of the system; the text is empty if the file does not exist."""
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _find_version(package: str) -> str | None:
    """Find the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
