"""Shops of your own: the book of docs/shop.md is played, trained on, and spoiled in many ways."""
import json
import re
import sys
from itertools import chain, combinations
from pathlib import Path

import pytest

import data
import eval as evaluation
import measure
import train
from data import DataError
from gopo import load_gopo
from infra.runs import read_config
from serving.pair import load_pair
from shop import mgshop, second_ear
from shop.catalogue import OWN, phrasings
from shop.customer import Shop
from shop.ear import hear
from shop.own import named
from shop.tools import ShopTools
from start import resolve
from tests.conftest import small_shops
from tests.customers import SPLITS, by_teacher, played
from tests.training import SHORT, refused

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "shop.md").read_text(encoding="utf-8")
PLANTS = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])


@pytest.fixture(scope="module")
def plants(tmp_path_factory):
    """The path of the book that docs/shop.md shows."""
    path = tmp_path_factory.mktemp("shop") / "plants.json"
    path.write_text(json.dumps(PLANTS))
    return path


def shop_of(folder, name, **changed):
    """A book like the example, with other fields: its path."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(PLANTS | changed))
    return str(path)


# --- a shop that works ----------------------------------------------------------------------------

@pytest.mark.parametrize("split", SPLITS)
def test_the_teacher_serves_every_customer_of_the_example(plants, split):
    named(str(plants))
    for number in range(30):
        shop = Shop(0, split, number, name="plants")
        assert played(shop, by_teacher)[1].outcome.success
        assert {need.category for need in shop.agenda} <= set(PLANTS["categories"])


def test_no_sentence_is_in_two_splits_and_every_split_has_some(plants):
    named(str(plants))
    for kind in OWN["plants"]["customer"]:
        found = {split: set(chain(*phrasings(split, kind, "plants"))) for split in SPLITS}
        assert all(found.values())
        for one, other in combinations(SPLITS, 2):
            assert not found[one] & found[other]


def test_a_book_that_leaves_nothing_out(tmp_path):
    path = tmp_path / "fashion.json"
    path.write_text((ROOT / "shop/books/tmallbrand_a.json").read_text())
    assert named(str(path)) == "fashion"
    assert played(Shop(0, "test", 0, name="fashion"), by_teacher)[1].outcome.success
    # same people as in no other shop, for the name is part of their seed
    assert Shop(0, "test", 0, name="fashion").code != Shop(0, "test", 0, name="tmallbrand-a").code


def test_what_must_be_said_by_law_is_no_act(tmp_path):
    """"Sorry" within it is heard as an apology by neither ear."""
    skills = json.loads((ROOT / "shop/books/mgshop.json").read_text())["skills"]
    for skill in skills:
        if skill["id"] == "state_price":
            skill["must_say"] = ["We are sorry that prices include tax."]
    name = named(shop_of(tmp_path, "lawful", skills=skills))
    reply = "It costs 20 euros. We are SORRY that prices include tax."
    for ear in (hear, second_ear.hear):
        customer = Shop(0, "test", 0, ear, name)
        kinds = [act.kind for act in customer.ear(reply, {"price_1": "20 euros"})]
        assert kinds == ["state_price"]
        assert "apologise" in [act.kind for act in ear(reply, {"price_1": "20 euros"})]


def test_bounds_of_an_own_shop(plants, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mgshop", "--shop", str(plants)])
    mgshop.main()
    assert capsys.readouterr().out.startswith("plants, customer 3")
    monkeypatch.setattr(sys, "argv", ["mgshop", "--shop", "palnts", "--bounds"])
    with pytest.raises(SystemExit):
        mgshop.main()
    assert "--shop palnts: write one of mgshop" in capsys.readouterr().err


def test_an_own_shop_is_an_environment_as_well(plants):
    class Plants(ShopTools):
        shop = str(plants)

    said = Plants().reset(customer=0)
    assert any(category in said for category in PLANTS["categories"])


# --- books with a fault ---------------------------------------------------------------------------

FERN = {"features": ["hardy", "feathery", "hanging"], "price": 20}
FIND = PLANTS["needs"]["find"]
FAULTS = {
    "what is sold": ({"categories": []}, "field categories: a list where an object"),
    "a category": ({"categories": {"Fern": FERN}}, "field categories.Fern: 'Fern'; write words in"),
    "a price": ({"categories": {"fern": FERN | {"price": 12}}},
                "field categories.fern.price: 12; write a whole number from 14 to 499"),
    "a price in quotes": ({"categories": {"fern": FERN | {"price": "20"}}}, "price: a string"),
    "two features": ({"categories": {"fern": FERN | {"features": ["hardy", "big"]}}},
                     "fern.features: write 3 different strings"),
    "a field": ({"categories": {"fern": FERN | {"prize": 3}}}, "unknown field 'prize'"),
    "goods in goods": ({"categories": {"fern": FERN, "tree fern": FERN}}, "hold one another"),
    "names": ({"names": PLANTS["names"] | {"dev": ["Amber"]}}, "names.dev: write 9 different"),
    "a name twice": ({"names": PLANTS["names"] | {"dev": PLANTS["names"]["test"]}},
                     "field names.test: 'Sage'; write words, a name of no other product"),
    "another field": ({"colour": 1}, "unknown field 'colour'; fields are about, categories"),
    "like whom": ({"like": "fds"}, "field like: 'fds'; write one of mgshop"),
    "nothing to be like": ({"like": None}, "field eta: missing; write it, or take it from"),
    "a skill nobody hears": ({"skills": [{"id": "dance", "examples": ["Hop."]}]},
                             "skills[0].id: 'dance' stands there already, or is nothing that a"),
    "a skill without words": ({"skills": [{"id": "greet"}]}, "skills[0].examples: missing"),
    "a fact": ({"skills": [{"id": "state_price", "examples": ["Cheap."]}]},
               "skills[0].needs: write ['price'] for state_price"),
    "a skill that is missing": ({"skills": [{"id": "greet", "examples": ["Hello."]}]},
                                "skills: 'apologise' is missing; customers with the need 'find'"),
    "a fact of other talk": (
        {"needs": {"find": FIND | {"asks": [["refund"]]}}, "customer": None},
        "of products the shop can tell price, stock, eta"),
    "a step": (
        {"needs": {"find": FIND | {"steps": ["guide"]}}, "customer": None},
        "steps: 'guide'; steps are"),
    "a chance": ({"needs": {"find": FIND | {"upset": 2}}}, "upset: 2; write a number from 0 to 1"),
    "a need without words": ({"needs": {"buy": FIND}, "customer": None},
                             "'need.buy' is missing; customers may say it"),
    "an unknown kind": ({"customer": {"caht": ["a", "b", "c"]}}, "customer.caht: no customer of"),
    "an expression": ({"order_talk": "("}, "field order_talk: no regular expression: missing )"),
    "evasion": ({"evasion": "I am sorry."}, "first ear hears apologise, and is to hear nothing"),
    "a feature in other words": (
        {"categories": {"fern": FERN | {"features": ["nice", "big", "hardy"]}}},
        "customer.mark.happy (as in mgshop): from 'Nice shop, by the way.' the back office takes"),
    "a currency": ({"currency": "yuan"}, "and it means talk product, category"),
}
WORDS = {
    "few": (["It is hot."], "customer.chat: 1 different sentence(s); at least 3 are needed"),
    "a choice": (["It is [hot|cold."], "'It is [hot|cold.'; close each choice"),
    "braces": (["It is {hot}."], "'It is {hot}.' has braces that are not known here"),
}
CASES = FAULTS | {
    name: ({"customer": {**PLANTS["customer"], "chat": lines}}, said)
    for name, (lines, said) in WORDS.items()}


@pytest.mark.parametrize("fault", CASES)
def test_what_is_wrong_is_named_with_file_and_field(fault, tmp_path):
    changed, said = CASES[fault]
    path = shop_of(tmp_path, f"spoiled-{list(CASES).index(fault)}", **changed)
    with pytest.raises(DataError) as error:
        named(path)
    message = str(error.value)
    assert message.startswith(path)
    assert said in message
    assert "\n" not in message


def test_a_sentence_must_be_heard_as_what_it_is(tmp_path):
    skills = json.loads((ROOT / "shop/books/mgshop.json").read_text())["skills"]
    skills[0]["examples"] = ["Hello, we are sorry."]
    with pytest.raises(DataError, match=re.escape(
            "field skills[0].examples[0]: in 'Hello, we are sorry.' the first ear hears "
            "apologise, greet, and is to hear greet")):
        named(shop_of(tmp_path, "rude", skills=skills))


def test_names_that_are_taken_and_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="mgshop is a dataset that is built in"):
        named(shop_of(tmp_path, "mgshop"))
    with pytest.raises(DataError, match="no such file; give the path of your shop's book"):
        data.load(str(tmp_path / "nothing.json"))
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(DataError, match="half.json: not valid JSON"):
        data.load(str(tmp_path / "half.json"))


# --- a run that was trained in it -----------------------------------------------------------------

@pytest.fixture(scope="module")
def trained(plants, tmp_path_factory):
    run = tmp_path_factory.mktemp("own") / "run"
    with small_shops():
        flags = [*SHORT, "--dataset", str(plants), "--steps", "1", "--eval_episodes", "0"]
        assert train.main([*flags, "--output_dir", str(run)]) == 0
        yield run


def test_a_run_remembers_its_shop(trained, plants):
    """As resumed, evaluated, loaded and served."""
    config = read_config(trained)["run"]
    assert config["dataset"] == str(plants)
    assert resolve.data_of(config, str(trained)).name == "plants"
    assert measure.data_of(trained, None, None).name == "plants"
    assert load_gopo(trained).dataset.name == "plants"
    pair = load_pair(trained)
    assert pair.dataset.context(["I need a fern."])["product_1"].endswith("fern")
    assert isinstance(pair.dataset.environment("test", 0, 0), Shop)


def test_a_run_can_be_tried_in_another_shop_with_its_labels(trained, tmp_path):
    other = shop_of(tmp_path, "garden", stock=["in stock", "sold out until May"])
    assert measure.data_of(trained, other, None).name == "garden"


def test_a_changed_book_is_refused(trained, plants, capsys):
    written = plants.read_text()
    kept = OWN.pop("plants")                     # as in a new process
    plants.write_text(written.replace("only 4 left", "only 5 left"))
    try:
        said = refused(["--resume", str(trained), "--steps", "4"], capsys)
        assert evaluation.main(["--run", str(trained), "--episodes", "3"]) == 2
    finally:
        plants.write_text(written)
        OWN["plants"] = kept
    assert f"it is not as it was when {trained} was trained; put it back" in said
    assert "--dataset plants: it is not as it was" in capsys.readouterr().err


def test_one_process_knows_one_shop_of_a_name(plants, tmp_path):
    named(str(plants))
    with pytest.raises(DataError, match="another shop plants is in use here already"):
        named(shop_of(tmp_path, "plants", stock=["in stock", "sold"]))
