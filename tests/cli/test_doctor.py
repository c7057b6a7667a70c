"""What a machine lacks, and the remedy."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from edge_mnist import doctor

PI_4 = (
    "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nModel\t\t: Raspberry Pi 4 Model B\n"
)
PI_5 = "Features\t: fp asimd aes asimdhp asimddp\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"


def test_a_processor_is_told_by_its_int8_instructions() -> None:
    slow, fast = doctor.check_processor(PI_4, "aarch64"), doctor.check_processor(PI_5, "aarch64")
    assert "Raspberry Pi 4 Model B" in slow.text and "without dot products" in slow.text
    assert "dot product, NEON" in fast.text and "without" not in fast.text
    assert "AVX-512 VNNI, AVX2" in doctor.check_processor("flags\t\t: sse avx2 avx512_vnni\n", "x86_64").text
    assert doctor.check_processor("", "riscv64").state == "good"


def test_what_makes_figures_of_speed_unsteady() -> None:
    assert doctor.check_governor("performance").state == "good"
    assert "echo performance" in doctor.check_governor("ondemand").remedy
    assert doctor.check_load(0.9, 2).state == "good" and "other programs" in doctor.check_load(1.1, 2).remedy
    assert next(finding.name for finding in doctor.examine_machine()) == "Processor"


@pytest.mark.parametrize(
    ("answer", "state", "text", "remedy"),
    [
        ("throttled=0x0", "good", "never throttled", ""),
        ("throttled=0x50005", "lacking", "under-voltage now, throttled now", "power supply"),
        ("throttled=0x80000", "lacking", "at the soft temperature limit earlier", "heat sink"),
        ("VCHI initialization failed", "lacking", "unknown", "group video"),
    ],
)
def test_power_and_heat(answer: str, state: str, text: str, remedy: str) -> None:
    found = doctor.check_throttling(answer)
    assert found.state == state and found.text.startswith(text) and remedy in found.remedy


def test_picamera2_that_does_not_load_has_a_remedy() -> None:
    def fail(error: Exception) -> None:
        raise error

    changed = ValueError("numpy.dtype size changed, may indicate binary incompatibility")
    assert "numpy<2" in doctor.check_picamera2(lambda name: fail(changed)).remedy
    assert "apt install" in doctor.check_picamera2(lambda name: fail(ImportError("No module"))).remedy
    assert doctor.check_picamera2(lambda name: None).state == "good"


def test_two_builds_of_opencv_are_one_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_mnist.demo.views import window

    monkeypatch.setattr(window, "explain_unavailable", lambda: window.NO_GUI)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--view web" in doctor.check_window().remedy or sys.platform != "linux"
    monkeypatch.setenv("DISPLAY", ":0")
    assert doctor.check_window().remedy == window.BUILD_WITH_GUI
    monkeypatch.setattr(doctor, "_find_opencv_builds", lambda: ["opencv-python", "opencv-python-headless"])
    both, shown = doctor.check_opencv(), doctor.check_window()
    assert "pip uninstall opencv-python opencv-python-headless, then " in both.remedy and both.state == "lacking"
    assert (shown.text, shown.remedy) == (window.NO_GUI, "see OpenCV")


def test_everything_is_looked_at_and_only_what_is_needed_decides() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "edge_mnist", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = {item["name"]: item for item in json.loads(result.stdout)}
    assert result.returncode == 0 and result.stderr == ""
    (read,) = re.findall(r"reads (\d+)% of drawn digits", found["TFLite"]["text"])
    assert found["TFLite"]["state"] == "good" and int(read) >= 98
    assert all(bool(item["remedy"]) == (item["state"] != "good") for item in found.values())
    # Without OpenCV nothing is read off paper; without NumPy the rest is not even looked at.
    for hidden, last in (("cv2", "Disk"), ("numpy", "NumPy")):
        code = f"import sys; sys.modules['{hidden}'] = None; sys.argv[1:] = ['doctor']\n"
        code += "from edge_mnist.cli.commands import main; main()"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 1 and result.stderr == "" and "!!" in result.stdout
        assert result.stdout.splitlines()[-1].split()[1] == last
