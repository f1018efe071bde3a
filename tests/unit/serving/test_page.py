"""The pages in Chromium, from a server in this process."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from tests.browser import CONTRAST, show_as
from tests.unit.serving.conftest import Colors, Slow, app_of, png

TOKEN = "0123456789abcdef"
DROP = """
const [name, content, kind] = arguments;
const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, { type: "image/png" }));
const options = { bubbles: true, cancelable: true };
const zone = document.getElementById("zone");
zone.dispatchEvent(kind === "paste"
  ? new ClipboardEvent("paste", { ...options, clipboardData: data })
  : new DragEvent("drop", { ...options, dataTransfer: data }));
"""
# In one call, since the page may change between two.
VISIBLE = """
return [...document.querySelectorAll(arguments[0])].filter((each) => each.checkVisibility())
  .map((each) => [each, each.innerText]);
"""


@contextmanager
def listening(app: FastAPI, port: int = 0) -> Iterator[str]:
    """A server in a thread, and its address."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_keep_alive=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


class Page:
    """The page in a browser, as a user meets it."""

    def __init__(self, browser: Any, address: str, path: str = "/"):
        self.browser, self.address = browser, address
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.get(f"{address}{path}")

    def visible(self, selector: str) -> list[tuple[Any, str]]:
        """The visible elements, each with its text."""
        return self.browser.execute_script(VISIBLE, selector)

    def all(self, selector: str) -> list[Any]:
        return [element for element, _ in self.visible(selector)]

    def texts(self, selector: str) -> list[str]:
        return [text for _, text in self.visible(selector)]

    def click(self, selector: str) -> None:
        self.wait_for(selector).click()

    def wait_for(self, selector: str, word: str = "") -> Any:
        """The first visible element whose text has a word."""
        end = time.monotonic() + 30
        while True:
            found = [element for element, text in self.visible(selector) if word in text]
            if found:
                return found[0]
            assert time.monotonic() < end, (selector, word, self.texts("body"))
            time.sleep(0.02)

    def give(self, name: str, content: bytes, kind: str = "drop") -> None:
        self.wait_for("#zone")
        self.browser.execute_script(DROP, name, base64.b64encode(content).decode(), kind)

    def choose(self, *files: Path) -> None:
        self.wait_for("#zone")
        self.browser.find_element("id", "files").send_keys("\n".join(map(str, files)))

    def check(self) -> None:
        """Nothing is asked of another server, nothing is wrong, and all can be read."""
        script = "return performance.getEntriesByType('resource').map((each) => each.name)"
        asked = self.browser.execute_script(script)
        assert all(each.startswith((self.address, "data:", "blob:")) for each in asked), asked
        # Chromium also logs each answer that is no success, as of the network.
        errors = [each for each in self.browser.get_log("browser") if each["level"] == "SEVERE"]
        assert [each for each in errors if each["source"] != "network"] == []


@pytest.fixture
def page(browser):
    """Open a page of a server: page(app) -> Page."""
    with_servers = []

    def open_page(app: FastAPI, path: str = "/") -> Page:
        server = listening(app)
        with_servers.append(server)
        return Page(browser, server.__enter__(), path)

    yield open_page
    for server in with_servers:
        server.__exit__(None, None, None)


def test_drop_an_image_and_read_the_answer(page, browser):
    shown = page(app_of(Colors()))
    shown.give("reddish.png", png(255, 0, 0))
    shown.wait_for(".latency", "ms in the server")
    assert shown.texts(".name") == ["reddish.png"]
    assert shown.texts(".class") == ["red", "green", "blue"]
    assert shown.texts(".value") == ["96.5%", "1.8%", "1.8%"]  # softmax of 2, -2, -2
    bars = [each.size["width"] for each in browser.find_elements("css selector", ".filled")]
    assert bars[0] > 20 * bars[1] > 0
    # What a screen reader says.
    status = browser.find_element("id", "status")
    assert status.get_attribute("textContent") == "reddish.png: red, 96.5%"
    assert status.get_attribute("role") == "status"

    shown.click("#attention")
    overlay = shown.wait_for(".attention img")
    width = "return arguments[0].decode().then(() => arguments[0].naturalWidth)"
    assert browser.execute_script(width, overlay) == 48
    assert "blocks.0" in shown.texts(".attention figcaption")[0]
    shown.give("pasted", png(0, 255, 0), kind="paste")
    shown.wait_for(".card:first-child .class", "green")
    shown.wait_for(".card:first-child .attention img")

    named = shown.all("button, input, select, a, img")
    assert len(named) > 10
    assert [each.get_attribute("outerHTML") for each in named if not each.accessible_name] == []
    for width in (360, 1280):
        for scheme in ("light", "dark"):
            show_as(browser, width, scheme)
            scrolled = browser.execute_script("return document.documentElement.scrollWidth")
            assert scrolled <= width
            assert browser.execute_script(CONTRAST) == []
    shown.click(".remove")
    assert browser.switch_to.active_element == shown.all(".remove")[0]
    shown.click(".remove")
    assert browser.switch_to.active_element.get_attribute("id") == "files"
    assert shown.texts("#none") == ["No images yet."]
    shown.check()


def test_bad_files_a_busy_server_and_none(page, browser, tmp_path):
    engine = Slow()
    app = app_of(Colors(engine), max_waiting=1, max_bytes=50_000)
    shown = page(app)
    for name, content in (("text.png", b"text"), ("large.png", bytes(50_001)), ("none.png", b"")):
        (tmp_path / name).write_bytes(content)
        shown.choose(tmp_path / name)
    shown.wait_for(".wrong", "This is not an image")
    shown.wait_for(".wrong", "too large")
    shown.wait_for(".wrong", "empty")
    shown.click("#clear")
    # One image waits for the engine; another one is refused, and asked for again.
    shown.give("first.png", png(255, 0, 0))
    assert engine.begun.wait(20)
    shown.give("second.png", png(0, 255, 0))
    shown.wait_for(".answer", "The server is busy")
    engine.go.set()
    shown.wait_for(".card:first-child .class", "green")
    shown.check()


def test_a_server_that_goes_away_and_comes_back(browser):
    with listening(app_of(Colors())) as address:
        shown = Page(browser, address)
        shown.wait_for("#zone")
    shown.give("red.png", png(255, 0, 0))
    shown.wait_for(".wrong", "The server cannot be reached")
    with listening(app_of(Colors()), int(address.rpartition(":")[2])):
        shown.click(".again")
        shown.wait_for(".class", "red")
        shown.check()


def test_token_and_languages(page, browser):
    agent = browser.execute_script("return navigator.userAgent")
    override = "Emulation.setUserAgentOverride"
    browser.execute_cdp_cmd(override, {"userAgent": agent, "acceptLanguage": "zh-CN,zh"})
    shown = page(app_of(Colors(), token=TOKEN))
    field = shown.wait_for("#token")
    assert browser.switch_to.active_element == field
    assert shown.texts("#access button") == ["使用此令牌"]
    field.send_keys("wrong\n")
    shown.wait_for("#trouble", "服务器不接受此令牌")
    field.send_keys(f"{TOKEN}\n")
    shown.give("a.png", png(0, 0, 255))
    shown.wait_for(".latency", "毫秒")
    assert shown.texts(".class")[0] == "blue"
    storage = "return [JSON.stringify(localStorage), JSON.stringify(sessionStorage)]"
    kept, of_the_tab = browser.execute_script(storage)
    assert (TOKEN in kept, TOKEN in of_the_tab) == (False, True)
    shown.click("[data-language=en]")
    assert browser.execute_script("return document.documentElement.lang") == "en"
    assert "ms" in shown.texts(".latency")[0]
    browser.execute_cdp_cmd(override, {"userAgent": agent, "acceptLanguage": "en"})
    same = """
      const keys = (part) => Object.entries(part).flatMap(([key, value]) =>
        typeof value === "string" ? [key + value.match(/{\\w+}/g)?.sort()] : keys(value));
      return import("/page/texts.js").then(({ TEXTS }) => [keys(TEXTS.en), keys(TEXTS.zh)]);
    """
    english, chinese = browser.execute_script(same)
    assert english == chinese
    assert len(english) > 40
    shown.check()


def test_several_models_and_the_camera(page, browser):
    areas = Colors(lambda images: images, "segmentation", "areas", has_more=False)
    shown = page(app_of(Colors(task="multilabel"), areas))
    shown.click("#open-camera")
    shown.click("#take:enabled")
    shown.wait_for(".name", "Photo 1")
    shown.wait_for(".latency")
    shown.click("#close-camera")
    shown.click("#clear") if shown.all("#clear") else shown.click(".remove")
    shown.give("dark.png", png(0, 0, 0))
    shown.wait_for(".answer", "No label is above its threshold")
    shown.give("yellow.png", png(255, 255, 0))
    shown.wait_for(".card:first-child .latency")
    assert shown.texts(".card:first-child .class") == ["red", "green"]

    browser.find_element("css selector", "#model option[value=areas]").click()
    shown.wait_for(".card:first-child .mask")
    assert "exported" in shown.texts("#about")[0]
    assert shown.texts(".card:first-child .value") == ["100.0%"]
    assert not shown.all("#attention")
    shown.click("#masks")
    assert not shown.all(".mask")
    shown.check()


def test_clients_of_the_docs(page, root):
    """The examples in Python and JavaScript."""
    shown = page(app_of(Colors(name="digits")))
    text = (root / "docs/serve.md").read_text(encoding="utf-8")
    text = text.replace("http://127.0.0.1:8866", shown.address)
    python, script = (
        re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]
        for language in ("python", "javascript")
    )
    done = subprocess.run(
        [sys.executable, "-c", python], cwd=root, capture_output=True, text=True, check=True
    )
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert sorted(names) == ["blue", "green", "red"]
    content = base64.b64encode((root / "docs/images/digit.png").read_bytes()).decode()
    array = f'Uint8Array.from(atob("{content}"), (letter) => letter.charCodeAt(0))'
    run = f"const file = new Blob([{array}]);\n{script}\nreturn predictions;"
    (found,) = shown.browser.execute_script(f"return (async () => {{{run}}})()")
    assert [each["name"] for each in found["best"]] == names


def test_description_of_the_api(page):
    shown = page(app_of(Colors()), "/docs")
    shown.wait_for(".opblock-summary-path", ":predict")
    paths = shown.texts(".opblock-summary-path")
    assert {path.replace("\u200b", "") for path in paths} >= {"/v1/models", "/metrics", "/readyz"}
    assert shown.texts("button.authorize") == ["Authorize"]
    shown.check()
