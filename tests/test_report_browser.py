"""The page of report.py in headless Chromium."""
import socket

import pytest

from experiments import report
from tests.browser import DOWN, ENTER, HOME, all_of, attribute, browser, count, text_of
from tests.page import ATTACKS, poisoned, save

__all__ = ["browser"]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return report.write(save(tmp_path_factory.mktemp("shown") / "mgshop")).as_uri()


# ---------------------------------------------------------------- dialogues

def test_browser_chooses_dialogues_and_asks_no_server(browser, address):
    browser.open(address)
    browser.complaints()
    browser.requested()
    browser.open(address)
    assert "question 1 GOPO 0" in text_of(browser)
    assert "Bye." in text_of(browser)
    # by the keyboard alone
    browser.keys("#method", "PPO")
    browser.keys("#customer", DOWN)
    assert "question 1 PPO 1" in text_of(browser)
    assert "GOPO" not in text_of(browser)
    assert "method=PPO" in browser.value("location.hash")
    assert "customer=1" in browser.value("location.hash")
    browser.keys("#after", ENTER)
    assert "question 1 PPO 2" in text_of(browser)
    browser.keys("#outcome", "all")
    assert all_of(browser, "#customer option", "value") == ["1", "3"]
    assert text_of(browser, "#said").endswith("all tasks done.")
    ends = all_of(browser, "#outcome option", "innerText")
    assert ends == ["any (4)", "left (2)", "all tasks done (2)"]
    assert browser.requested() == {address}
    assert browser.complaints() == []


def test_browser_opens_the_view_of_an_address(browser, address):
    dialogues = "#method=PPO&seed=1&customer=3&compare=SFT"
    curves = "&metric=loss&off=GOPO&off=PPO"
    browser.open(address + dialogues + curves)
    assert all_of(browser, "#played h3", "innerText") == ["PPO", "SFT"]
    assert "question 1 PPO 3" in text_of(browser)
    assert "question 4 SFT 3" in text_of(browser)
    metric = "document.querySelector('#metric').value"
    assert browser.value(metric) == "loss"
    assert all_of(browser, "#legend input", "checked") == [False, False, True]
    assert count(browser, "#chart path.mean-line") == 1
    # a link to a part of the page is no state
    browser.run("location.hash = '#tables'")
    assert browser.value(metric) == "loss"
    browser.open(address + "#method=nobody&customer=99&seed=x&metric=nothing&compare=nobody")
    assert "question 1 GOPO 0" in text_of(browser)
    assert browser.complaints() == []


def test_browser_marks_skills_states_and_rewards(browser, address):
    browser.open(address + "#method=GOPO&customer=0")
    first = "#played article:first-of-type"
    assert all_of(browser, f"{first} .chip", "textContent") == [
        "✓ refund (perceived rightly)",
        "✗ angry (perceived wrongly)",
        "= apologise (same place in the teacher’s list)",
        "+ upsell (not in the teacher’s list)",
        "↕ state_price (another place in the teacher’s list)",
        "= apologise (chosen, same place)",
        "↕ state_price (chosen, another place)",
        "− close (missed)",
    ]
    bars = all_of(browser, f"{first} .bars div", "innerText.split('\\n').join(' ')")
    assert bars == [
        "R^E skills −0.10",
        "S1 quality 1.00",
        "S2 fitness 0.50",
        "S3 compliance —",
        "S4 diversity 0.25",
        "R^A reply 0.60",
        "R_t joint 0.45",
    ]
    assert attribute(browser, ".bars rect.below", "width") == "10"
    text = text_of(browser)
    assert "in truth sad" in text
    assert "must say: Terms apply." in text
    assert "requirement turn 1, information turn 2" in text
    mood = "mood over the turns: 0.40, 0.60, 0.70"
    assert attribute(browser, ".spark", "aria-label") == mood


# ---------------------------------------------------------------- curves

MOVE_POINTER = """
const box = document.querySelector("#chart svg").getBoundingClientRect();
const place = {clientX: box.left + 52 + (box.width - 68) * 4 / 9, clientY: box.top + 50};
document.querySelector("#chart svg").dispatchEvent(new PointerEvent("pointermove", place));
"""
SHOW_LOSS = """
const metric = document.querySelector("#metric");
metric.value = "loss";
metric.onchange();
"""


def test_browser_draws_curves_and_reads_values(browser, address):
    browser.open(address + "#metric=tse")
    assert count(browser, "#chart path.mean-line") == 3
    assert count(browser, "#chart path.run") == 6

    def values():
        return all_of(browser, "#legend output", "value")

    def step():
        return browser.value("document.querySelector('#at').value")

    # mean of two seeds at step 10
    assert values() == ["0.61", "0.51", "0.41"]
    browser.keys("#step", HOME)
    assert values() == ["0.52", "0.42", "0.32"]
    assert step() == "1"
    browser.run(MOVE_POINTER)
    assert step() == "5"
    assert values()[0] == "0.56"
    browser.run(SHOW_LOSS)
    # the mean leaves the step out that no seed measured
    mean = attribute(browser, "#chart path.mean-line", "d")
    assert mean.count("M") == 1
    assert mean.count("L") == 8
    assert attribute(browser, "#chart path.run", "d").count("M") == 2
    assert browser.complaints() == []


# ---------------------------------------------------------------- everywhere

WIDE = "document.documentElement.scrollWidth"
COLUMNS = "getComputedStyle(document.querySelector('#played')).gridTemplateColumns"
GROUND = "getComputedStyle(document.body).backgroundColor"


def test_browser_fits_a_phone_the_night_and_paper(browser, address):
    screen = {"deviceScaleFactor": 1}
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.device(
        "Emulation.setDeviceMetricsOverride", width=390, height=844, mobile=True, **screen
    )
    browser.device("Emulation.setEmulatedMedia", features=dark)
    browser.open(address + "#method=GOPO&customer=1&compare=PPO")
    wide, inner = browser.value(WIDE), browser.value("innerWidth")
    columns, night = browser.value(COLUMNS), browser.value(GROUND)
    browser.device(
        "Emulation.setDeviceMetricsOverride", width=480, height=1000, mobile=False, **screen
    )
    browser.device("Emulation.setEmulatedMedia", media="print", features=[])
    over = browser.value(f"{WIDE} - document.documentElement.clientWidth")
    controls = browser.value("getComputedStyle(document.querySelector('.controls')).display")
    printed = browser.value(GROUND)
    browser.device("Emulation.clearDeviceMetricsOverride")
    browser.device("Emulation.setEmulatedMedia", media="", features=[])
    assert (wide, inner) == (390, 390)
    assert len(columns.split(" ")) == 1
    assert night == "rgb(20, 23, 27)"
    assert (over, controls, printed) == (0, "none", "rgb(255, 255, 255)")


@pytest.mark.parametrize("word", [*ATTACKS[:6], "<b>bold</b>"])
def test_browser_shows_attacks_as_text(browser, tmp_path, word):
    browser.open(report.write(save(tmp_path / "x", *poisoned(word))).as_uri())
    assert browser.value("window.broken ?? null") is None
    assert all_of(browser, ".say", "lastChild.textContent")[0] == word
    # figure 1
    assert count(browser, "img") == 1
    assert browser.complaints() == []


STEAL = """
const image = new Image();
const script = document.createElement("script");
script.textContent = "window.broken = 1";
document.body.append(script, image);
const loaded = new Promise(done => { image.onload = image.onerror = done; image.src = stolen; });
return Promise.allSettled([fetch(stolen), loaded]);
"""


def test_browser_holds_the_lock_even_if_something_got_in(browser, address):
    browser.open(address)
    with socket.create_server(("127.0.0.1", 0)) as thief:
        thief.setblocking(False)
        port = thief.getsockname()[1]
        browser.run(f'const stolen = "http://127.0.0.1:{port}/stolen";' + STEAL)
        # nobody came
        with pytest.raises(BlockingIOError):
            thief.accept()
    assert browser.value("window.broken ?? null") is None
    refused = [c for c in browser.complaints() if "Content Security Policy" in c]
    # the script, the picture, the request
    assert len(refused) >= 3


def test_browser_says_what_is_missing(browser, tmp_path):
    browser.open(report.write(save(tmp_path / "x", curves=[], dialogues=[])).as_uri())
    assert "no curves.jsonl" in browser.value("document.body.innerText")
    assert browser.complaints() == []
    bare = {
        "method": "A",
        "seed": 0,
        "customer": 1,
        "success": False,
        "outcome": "cut",
        "turns": [{"user": "only this"}],
    }
    browser.open(report.write(save(tmp_path / "y", dialogues=[bare])).as_uri())
    text = text_of(browser)
    for said in ("only this", "not recorded", "nobody labelled this turn", "TSE —"):
        assert said in text
    assert browser.complaints() == []
