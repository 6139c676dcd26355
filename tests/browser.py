"""Headless Chromium for tests of pages, driven over HTTP by chromedriver (no Selenium).

A test file that imports the fixture `browser` has one browser for all its tests."""
import json
import shutil
import socket
import subprocess
import time

import pytest
import requests

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, CHROMIUMS)), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)
# keys as the protocol names them
DOWN = "\ue015"
ENTER = "\ue007"
HOME = "\ue011"


class Browser:
    """One session of the W3C WebDriver protocol."""

    def __init__(self, profile):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([DRIVER, f"--port={port}"], **quiet)
        self.http = requests.Session()
        # no proxy on the way to ourselves
        self.http.trust_env = False
        self.wait()
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self.session = f"{self.root}/session"
        answer = self.ask("", {"capabilities": {"alwaysMatch": wanted}})
        self.session += "/" + answer["sessionId"]

    def wait(self):
        """Until chromedriver answers."""
        for _ in range(200):
            try:
                self.http.get(f"{self.root}/status", timeout=5)
                return
            except requests.ConnectionError:
                time.sleep(0.05)

    def ask(self, path, body):
        value = self.http.post(self.session + path, json=body, timeout=60).json()["value"]
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(value["error"] + ": " + value["message"])
        return value

    def open(self, address):
        # or a new hash alone would not load the page again
        self.ask("/url", {"url": "about:blank"})
        self.ask("/url", {"url": address})

    def run(self, script):
        return self.ask("/execute/sync", {"script": script, "args": []})

    def value(self, expression):
        return self.run(f"return {expression}")

    def keys(self, selector, keys):
        found = self.ask("/element", {"using": "css selector", "value": selector})
        self.ask(f"/element/{next(iter(found.values()))}/value", {"text": keys})

    def device(self, command, **parameters):
        return self.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def requested(self):
        """The addresses that were asked for since the last call, without their # and data: ones."""
        addresses = set()
        for entry in self.ask("/se/log", {"type": "performance"}):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                url = event["params"]["request"]["url"]
                if not url.startswith("data:"):
                    addresses.add(url.split("#")[0])
        return addresses - {""}

    def complaints(self):
        return [entry["message"] for entry in self.ask("/se/log", {"type": "browser"})]

    def close(self):
        try:
            self.http.delete(self.session, timeout=60)
        finally:
            self.process.terminate()
            self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM or not DRIVER:
        pytest.skip("no Chromium or no chromedriver: apt-get install chromium chromium-driver")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def text_of(browser, selector="#played"):
    return browser.value(f"document.querySelector('{selector}').innerText")


def all_of(browser, selector, what):
    """`what` of every element, e.g. innerText."""
    return browser.value(f"[...document.querySelectorAll('{selector}')].map(e => e.{what})")


def count(browser, selector):
    return browser.value(f"document.querySelectorAll('{selector}').length")


def attribute(browser, selector, name):
    return browser.value(f"document.querySelector('{selector}').getAttribute('{name}')")
