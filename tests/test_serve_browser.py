"""The chat page of serve.py in headless Chromium."""
import re
import time

import pytest

from shop.mgshop import Shop
from tests.browser import ENTER, all_of, attribute, browser, count, text_of
from tests.conftest import small_shops
from tests.page import ATTACKS
from tests.serving import MISSING, needs_packages, served

if MISSING:
    pytest.skip(needs_packages.kwargs["reason"], allow_module_level=True)

from serving.app import PAGE, locked_page
from serving.pair import load_pair
from serving.wire import Refused

__all__ = ["browser"]

KEY = "a-key-of-twenty-letters"
STATUS = "document.querySelector('#status').textContent"
BUSY = "document.querySelector('#send').disabled"


@pytest.fixture(scope="module")
def pair(strategy_run):
    with small_shops():
        return load_pair(strategy_run)


@pytest.fixture(scope="module")
def address(pair):
    with served(pair) as url:
        yield f"{url}/"


def until(browser, expression):
    """Waits until the expression is true on the page."""
    for _ in range(600):
        if browser.value(expression):
            return
        time.sleep(0.05)
    pytest.fail(f"never came true: {expression}; the page says {browser.value(STATUS)!r}")


def shown(browser, address):
    browser.open(address)
    until(browser, "document.querySelector('#of').textContent")


def send(browser, text, new=False):
    """Sends a message; `new`: it begins a dialogue."""
    turns = 0 if new else count(browser, ".strategy")
    browser.keys("#message", text + ENTER)
    until(browser, f"!{BUSY} && document.querySelectorAll('.strategy').length === {turns + 1}")


def test_the_page_names_no_other_address():
    text, lock = locked_page()
    assert text == PAGE.read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:,)|url\(|@import|//[\w.-]+\.\w", text)
    assert lock.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'self'" in lock


def test_browser_talks_and_sends_everything_back(browser, address):
    browser.complaints()
    shown(browser, address)
    browser.requested()
    send(browser, "I am looking for a quiet kettle, at most 40 euros.")
    send(browser, "Is it in stock?")
    texts = all_of(browser, ".customer span", "textContent")
    assert texts == ["I am looking for a quiet kettle, at most 40 euros.", "Is it in stock?"]
    assert all(all_of(browser, ".agent span", "textContent"))
    fields = all_of(browser, ".turn:last-child dt", "textContent")
    assert fields == ["skills", "perceived", "must say", "rules broken"]
    sent = browser.value("messages.map(message => message.role)")
    assert sent == ["user", "assistant"] * 2
    assert browser.value("messages[3].gopo.previous.source") == "returned"
    names = all_of(browser, ".turn:last-child .skills li", "textContent")
    assert names == (browser.value("messages[3].gopo.skills") or ["none"])
    # the message box is ready for the next one
    assert browser.value("document.activeElement.id") == "message"
    inside = {url for url in browser.requested() if not url.startswith("chrome")}
    assert inside == {f"{address}v1/chat/completions"}
    assert browser.complaints() == []
    browser.keys("#fresh", ENTER)
    assert count(browser, ".turn") == 0
    assert "teacher’s skills and the mood" in browser.value(STATUS)


def test_browser_watches_a_customer(browser, address):
    shown(browser, address)
    browser.run("document.querySelector('#number').value = 3")
    browser.keys("#watch", ENTER)
    until(browser, f"!{BUSY} && document.querySelector('#stop').hidden")
    first = Shop(0, "test", 3).reset()
    assert all_of(browser, ".customer span", "textContent")[0] == first.user
    labels = first.labels
    turn = ".turn:first-child"
    fields = all_of(browser, f"{turn} dt", "textContent")
    assert fields == [
        "skills", "teacher", "perceived", "in truth", "mood", "must say", "rules broken"]
    teacher = all_of(browser, f"{turn} .skills:last-child li", "textContent")
    assert [re.sub(r"^− | \(.*", "", name) for name in teacher[-len(labels.teacher):]] == list(
        labels.teacher)
    assert attribute(browser, f"{turn} meter", "aria-label").startswith("mood of the customer")
    assert "0.60" in text_of(browser, f"{turn} dl")
    assert f"{labels.intent}, {labels.emotion}" in text_of(browser, f"{turn} dl")
    status = browser.value(STATUS)
    assert re.match(r"(All wishes met|Not everything was done)\. Tasks: requirement ", status)
    assert "TSE" in status
    # a mark of a skill is also said in words
    for name in all_of(browser, f"{turn} li.same, {turn} li.extra", "textContent"):
        assert re.search(r"\((as the teacher, same place|not in the teacher’s list)\)", name)
    # who writes after that begins a dialogue of their own
    send(browser, "Hi", new=True)
    assert all_of(browser, ".customer b", "textContent") == ["You"]
    assert browser.complaints() == []


@pytest.mark.parametrize("word", [*ATTACKS[:6], "<b>bold</b>"])
def test_browser_shows_attacks_as_text(browser, address, word):
    shown(browser, address)
    send(browser, word)
    assert all_of(browser, ".customer span", "textContent") == [word]
    assert browser.value("window.broken ?? null") is None
    assert count(browser, "img, iframe, .say svg, .say b b") == 0
    assert browser.complaints() == []


def test_browser_says_what_went_wrong(browser, address, pair, monkeypatch):
    """The message stays to be sent again, and nothing of the turn is kept."""
    shown(browser, address)

    def refuse(begun):
        raise Refused(400, "no answer today")

    monkeypatch.setattr(pair.trained, "take", refuse, raising=False)
    browser.keys("#message", "Hi" + ENTER)
    until(browser, f"!{BUSY} && {STATUS}.includes('today')")
    assert attribute(browser, "#status", "class") == "soft wrong"
    assert browser.value("document.querySelector('#message').value") == "Hi"
    assert count(browser, ".turn") == 0
    monkeypatch.undo()
    send(browser, "")
    assert all_of(browser, ".customer span", "textContent") == ["Hi"]


def test_browser_asks_for_the_key(browser, pair):
    with served(pair, key=KEY) as url:
        browser.open(f"{url}/")
        until(browser, "!document.querySelector('#lock').hidden")
        assert "key is missing or wrong" in browser.value(STATUS)
        browser.keys("#key", "wrong" + ENTER)
        until(browser, f"{STATUS}.includes('wrong')")
        browser.keys("#key", KEY + ENTER)
        until(browser, "document.querySelector('#of').textContent")
        send(browser, "Hi")
        assert count(browser, ".strategy") == 1
        assert browser.value("document.querySelector('#lock').hidden")
        assert KEY not in browser.value("document.documentElement.outerHTML")
        assert browser.value("localStorage.length + sessionStorage.length") == 0


NAMED = """
return [...document.querySelectorAll("input, textarea, button, meter, main, [role]")]
  .filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim() || e.role === "status"))
  .map(e => e.outerHTML);
"""


def test_browser_fits_a_phone_and_tells_screen_readers(browser, address):
    browser.device("Emulation.setDeviceMetricsOverride",
                   width=400, height=800, mobile=True, deviceScaleFactor=1)
    try:
        shown(browser, address)
        browser.keys("#watch", ENTER)
        until(browser, f"!{BUSY} && document.querySelector('#stop').hidden")
        assert browser.value("document.documentElement.scrollWidth") == 400
        assert browser.value("document.documentElement.scrollHeight") == 800
        columns = "getComputedStyle(document.querySelector('.turn')).gridTemplateColumns"
        assert len(browser.value(columns).split(" ")) == 1
        # the end of the dialogue is in view, above the message box
        below = browser.value(
            "document.querySelector('footer').getBoundingClientRect().top - "
            "document.querySelector('.turn:last-child').getBoundingClientRect().bottom")
        assert below >= -1
    finally:
        browser.device("Emulation.clearDeviceMetricsOverride")
    assert browser.run(NAMED) == []
    assert attribute(browser, "#log", "aria-live") == "polite"
    assert attribute(browser, "#log", "aria-busy") == "false"
    assert attribute(browser, "html", "lang") == "en"
    assert all_of(browser, ".turn", "ariaLabel")[:2] == ["Turn 1", "Turn 2"]
