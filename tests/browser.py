"""Chromium for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CONTRAST = """
const channels = (color) => color.match(/[0-9.]+/g).map(Number);
const luminance = (color) => {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = channels(color).map((c) => linear(c / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const color = getComputedStyle(each).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
  return getComputedStyle(document.documentElement).backgroundColor;
};
const low = [];
const texts = "p, a, dt, dd, th, td:not([style]), li, figcaption, caption, summary, pre, span";
const others = "strong, output, label, button, select, h1, h2, h3";
for (const element of document.querySelectorAll(`${texts}, ${others}`)) {
  if (!element.textContent.trim() || !element.getClientRects().length) continue;
  const [one, other] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (ratio < 4.5) low.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)}`);
}
return low;
"""


@contextmanager
def open_browser() -> Iterator[Any]:
    """A driver of Chromium, with a camera of its own; the test is skipped without one."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # In a container Chromium's sandbox cannot start as root.
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    for option in ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


def show_as(browser: Any, width: int, scheme: str) -> None:
    """Show pages in a width, below 600 as a phone does, and in the scheme `light` or `dark`."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
