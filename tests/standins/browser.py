"""Debian's Chromium, driven by chromedriver's W3C protocol."""

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.standins.waiting import PATIENCE

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C's name of an element's reference


@dataclass
class Browser:
    client: httpx2.Client
    session: str

    def call(self, path: str, **values: Any) -> Any:
        answer = self.client.post(f"{self.session}/{path}", json=values)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def open(self, url: str) -> None:
        self.call("url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function's body returns in the page."""
        return self.call("execute/sync", script=script, args=list(arguments))

    def find(self, selector: str) -> str:
        element = self.call("element", using="css selector", value=selector)
        return str(element[ELEMENT])

    def click(self, selector: str) -> None:
        self.call(f"element/{self.find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self.call(f"element/{self.find(selector)}/value", text=text)

    def text(self, selector: str) -> str:
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.run(script, selector))

    def size(self, width: int, height: int) -> None:
        self.call("window/rect", width=width, height=height)

    def picture(self, path: Path) -> None:
        value = self.client.get(f"{self.session}/screenshot").json()["value"]
        path.write_bytes(base64.b64decode(value))

    def log(self) -> list[str]:
        return [entry["message"] for entry in self.call("se/log", type="browser")]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A new one with a profile of its own; the test is skipped where there is none."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or program is None:
        pytest.skip("Chromium and its driver are not here (apt install chromium chromium-driver)")
    child = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        port = next(m[1] for line in child.stdout if (m := re.search(r"on port (\d+)\.", line)))
        options = {
            "binary": program,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     f"--user-data-dir={folder / 'profile'}"],
        }  # fmt: skip
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        wanted |= {"timeouts": {"implicit": 60_000}}  # ms, in which an element may come
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            asked = {"capabilities": {"alwaysMatch": wanted}}
            answer = client.post("/session", json=asked).json()["value"]
            assert "sessionId" in answer, answer
            session = f"/session/{answer['sessionId']}"
            try:
                yield Browser(client, session)
            finally:
                client.delete(session)
    finally:
        child.terminate()
        child.wait(PATIENCE)
