"""The page in a real browser, and with twenty viewers at once."""

from __future__ import annotations

import re
import socket
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.support.demos import (
    Demo,
    browser,
    browser_missing,
    demo,
    draw_doubtful_number,
    draw_number,
    draw_numbers,
    wait,
)

pytestmark = pytest.mark.slow

# The strokes of a 7 on the pad: the first point from its centre, then the steps to the next points.
SEVEN = ((-60, -80), (40, 0), (40, 0), (30, 0), (-20, 50), (-20, 50), (-15, 45))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if reason := browser_missing():
        pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("browser"), 1280, 1000) as driver:
        yield driver


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Demo]:
    with demo("--camera", "sample", "--view", "web", "--port", 0, "--corrections", tmp_path / "mine") as found:
        yield found


def read_text(driver: Any, name: str) -> str:
    return str(driver.execute_script("return document.getElementById(arguments[0]).textContent", name))


def find_element(driver: Any, name: str) -> Any:
    return driver.find_element("id", name)


def capture_picture(driver: Any) -> str:
    """Copy the live picture as the browser shows it."""
    script = """const c = document.createElement("canvas"), i = document.getElementById("live");
        c.width = i.naturalWidth; c.height = i.naturalHeight;
        if (c.width) c.getContext("2d").drawImage(i, 0, 0);
        return c.width ? c.toDataURL() : "";"""
    return str(driver.execute_script(script))


def draw(driver: Any, points: tuple[tuple[int, int], ...] = SEVEN) -> None:
    from selenium.webdriver import ActionChains

    pad = find_element(driver, "pad")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    actions = ActionChains(driver, duration=30).move_to_element_with_offset(pad, *points[0]).click_and_hold()
    for step in points[1:]:
        actions = actions.move_by_offset(*step)
    actions.release().perform()


def read_console(driver: Any) -> list[str]:
    """Read the messages in the console of the browser."""
    return [entry["message"] for entry in driver.get_log("browser")]


def test_a_visitor_sees_the_live_picture_draws_uploads_and_corrects(
    chromium: Any, running: Demo, tmp_path: Path
) -> None:
    chromium.get(running.url)
    first = wait(lambda: capture_picture(chromium))
    wait(lambda: capture_picture(chromium) != first)
    number = wait(lambda: read_text(chromium, "number"))
    assert re.fullmatch(r"\d+", number) and number in read_text(chromium, "history")
    rows = wait(lambda: find_element(chromium, "history").find_elements("css selector", "li.read.gone"))
    assert " · gone " in rows[-1].text  # what is gone is said where the number was read
    assert find_element(chromium, "state").get_attribute("data-state") == "live"
    assert len(read_text(chromium, "hash")) == 16 and float(read_text(chromium, "total")) > 0

    find_element(chromium, "snapshot").click()
    wait(lambda: "Snapshot saved" in read_text(chromium, "toast"))
    find_element(chromium, "toast").find_element("tag name", "button").click()
    assert not find_element(chromium, "toast").is_displayed()

    draw(chromium)
    wait(lambda: read_text(chromium, "verdict") == "It is a 7.")
    assert "7" in find_element(chromium, "bars").find_element("class name", "best").text
    find_element(chromium, "relabel").click()
    find_element(chromium, "labels").find_element("css selector", "[data-label='1']").click()
    wait(lambda: "Saved as" in read_text(chromium, "toast"))
    (saved,) = (tmp_path / "mine" / "1").glob("*.png")
    assert cv2.imread(str(saved), cv2.IMREAD_UNCHANGED).shape == (28, 28)
    assert read_text(chromium, "saved") == "Corrections saved: 1 as 1"
    find_element(chromium, "toast").find_element("tag name", "button").click()
    wait(lambda: not saved.exists() and not find_element(chromium, "saved").is_displayed())
    find_element(chromium, "clear").click()
    assert "pen" in read_text(chromium, "verdict")

    cv2.imwrite(str(tmp_path / "photo.jpg"), draw_number("402"))
    find_element(chromium, "file").send_keys(str(tmp_path / "photo.jpg"))
    wait(lambda: read_text(chromium, "photo-text") == "402")
    cv2.imwrite(str(tmp_path / "two.jpg"), draw_numbers("38", "59"))
    find_element(chromium, "file").send_keys(str(tmp_path / "two.jpg"))
    wait(lambda: read_text(chromium, "photo-text") == "38 59")
    find_element(chromium, "photo-digits").find_elements("tag name", "button")[1].click()
    find_element(chromium, "labels").find_element("css selector", "[data-label='none']").click()
    wait(lambda: list((tmp_path / "mine" / "none").glob("*.png")))
    (tmp_path / "note.jpg").write_text("no picture")
    find_element(chromium, "file").send_keys(str(tmp_path / "note.jpg"))
    wait(lambda: "the photograph" in read_text(chromium, "photo-quiet"))
    refused = read_console(chromium)
    assert (
        len(refused) == 1 and "photo" in refused[0] and "422" in refused[0]
    )  # no violation of the CSP and no error of the script


def test_the_page_shows_that_the_demo_is_offline_and_goes_on_when_it_is_back(chromium: Any, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    arguments = ("--camera", "sample", "--view", "web", "--port", port, "--corrections", tmp_path)
    with demo(*arguments) as first:
        chromium.get(first.url)
        wait(lambda: find_element(chromium, "state").get_attribute("data-state") == "live")
    wait(lambda: find_element(chromium, "state").get_attribute("data-state") == "away")
    assert read_text(chromium, "state") == "offline" and not find_element(chromium, "snapshot").is_enabled()
    with demo(*arguments):
        wait(lambda: find_element(chromium, "state").get_attribute("data-state") == "live")
        wait(lambda: find_element(chromium, "snapshot").is_enabled())
        before = wait(lambda: capture_picture(chromium))
        wait(lambda: capture_picture(chromium) != before)
        wait(lambda: read_text(chromium, "number"))
    chromium.get("about:blank")
    chromium.get_log("browser")


def test_on_a_phone_nothing_is_cut_off_and_a_finger_draws(running: Demo, tmp_path: Path) -> None:
    if reason := browser_missing():
        pytest.skip(reason)
    with browser(tmp_path, 390, 844, phone=True) as phone:
        phone.get(running.url)
        wait(lambda: read_text(phone, "number"))
        assert phone.execute_script("return document.documentElement.scrollWidth") == 390
        shown = [found.size["height"] for found in phone.find_elements("css selector", "button, label")]
        assert min(height for height in shown if height) >= 34  # all are large enough for a finger
        draw(phone)
        wait(lambda: read_text(phone, "verdict") == "It is a 7.")
        assert read_console(phone) == []


@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 1000, False), (390, 844, True)])
def test_a_doubtful_digit_is_orange_and_can_be_corrected(width: int, height: int, phone: bool, tmp_path: Path) -> None:
    if reason := browser_missing():
        pytest.skip(reason)
    path = tmp_path / "page.png"
    cv2.imwrite(str(path), draw_doubtful_number())
    arguments = ("--camera", path, "--view", "web", "--port", 0, "--corrections", tmp_path / "mine")
    with demo(*arguments) as running, browser(tmp_path, width, height, phone=phone) as driver:
        driver.get(running.url)
        wait(lambda: read_text(driver, "number") == "7?85")
        assert "7?85not sure" in wait(lambda: read_text(driver, "history"))
        find_element(driver, "file").send_keys(str(path))
        wait(lambda: read_text(driver, "photo-text") == "7?85")
        assert "4 digits" in read_text(driver, "photo-quiet") and "1 of them not sure" in read_text(
            driver, "photo-quiet"
        )
        orange = driver.execute_script("return getComputedStyle(document.querySelector('.legend i')).borderTopColor")
        for shown in ("#photo-digits", "#history .crops"):
            buttons = driver.find_elements("css selector", f"{shown} button")[:4]
            colours = [button.value_of_css_property("border-top-color") for button in buttons]
            assert [parse_rgb(colour) == parse_rgb(orange) for colour in colours] == [False, True, False, False]
        driver.find_elements("css selector", "#photo-digits button")[1].click()
        find_element(driver, "labels").find_element("css selector", "[data-label='3']").click()
        wait(lambda: list((tmp_path / "mine" / "3").glob("*.png")))
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert read_console(driver) == []


def parse_rgb(colour: str) -> list[str]:
    """Extract red, green and blue from a colour as CSS formats it."""
    return re.findall(r"\d+", colour)[:3]


def test_another_host_name_and_a_wrong_token_show_nothing(chromium: Any, tmp_path: Path) -> None:
    arguments = ("--camera", "sample", "--view", "web", "--port", 0, "--host", "0.0.0.0")
    with demo(*arguments, EDGE_MNIST_TOKEN="a-token-for-tests") as running:
        port = running.wait_for_line(r":(\d+)/\?token=a-token-for-tests")[1]
        home = f"http://127.0.0.1:{port}/"
        for address in (home, f"{home}?token=wrong-but-as-long"):
            chromium.get(address)
            assert "token" in chromium.page_source and "canvas" not in chromium.page_source
        chromium.get(f"{home}?token=a-token-for-tests")
        assert chromium.current_url == home  # the token is no longer in the address
        wait(lambda: read_text(chromium, "number"))
        chromium.delete_all_cookies()
        request = urllib.request.Request(home, headers={"Host": "rebound.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=10)
    chromium.get("about:blank")
    chromium.get_log("browser")


def test_twenty_viewers_do_not_slow_down_the_reading_even_if_one_receives_nothing(tmp_path: Path) -> None:
    with demo("--camera", "sample", "--view", "web", "--port", 0, "--fps", 10) as running:
        port = int(running.url.rstrip("/").rpartition(":")[2])
        rates: dict[bool, list[float]] = {True: [], False: []}
        memory = []
        for _ in range(2):
            for is_watched in (False, True):
                viewers = [Viewer(port, reads=index > 0) for index in range(20 if is_watched else 0)]
                time.sleep(8)  # the rate is that of the last 60 frames
                rates[is_watched].append(running.status()["rate"])
                assert running.status()["viewers"] == len(viewers)
                counts = [viewer.pictures for viewer in viewers[1:]]
                for viewer in viewers:
                    viewer.close()
                assert not counts or min(counts) > 40
                wait(lambda: running.status()["viewers"] == 0)
            memory.append(running.memory())
    print(f"frames a second alone {rates[False]}, with 20 viewers {rates[True]}; {memory[-1] >> 20} MiB")
    assert statistics.mean(rates[True]) >= 0.8 * statistics.mean(rates[False])
    # A queue for each viewer would take tens of MB more; the allocator alone varies by a few.
    assert memory[1] - memory[0] < 12 << 20


class Viewer:
    """A viewer of the live picture, who receives it or receives nothing."""

    def __init__(self, port: int, *, reads: bool) -> None:
        self.pictures = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.sendall(b"GET /live.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self._thread = threading.Thread(target=self._read if reads else lambda: None)
        self._thread.start()

    def _read(self) -> None:
        try:
            while data := self._socket.recv(1 << 16):
                self.pictures += data.count(b"--picture")
        except OSError:
            return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def test_a_port_in_use_is_reported_in_one_line(running: Demo) -> None:
    port = running.url.rstrip("/").rpartition(":")[2]
    with demo("--camera", "sample", "--view", "web", "--port", port) as second:
        assert second.wait() == 1
    assert len(second.errors) == 2 and f"--port {port}: is in use already" in second.errors[1]
    assert running.status()["state"] == "live"
