"""The public side of the simulated shop: B_t, the shelves and the phrase book.

B_t is made of what was said and of the public catalogue, and of nothing else."""
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from data import slots
from shop import catalogue
from shop.catalogue import (
    Focus,
    book,
    business_context,
    expand,
    open_orders,
    phrasings,
    products,
    search,
    skill_pool,
    template,
)
from shop.customer import Shop
from shop.ear import FACT_OF
from tests.customers import (
    SPLITS,
    Permuted,
    by_chance,
    by_teacher,
    flags_of,
    names_of,
    over,
    played,
)

POOL = list(skill_pool())
ITEMS = list(book()["categories"])
KETTLES = {
    "product_1": "Larch kettle",
    "price_1": "39 euros",
    "product_2": "Fjord kettle",
    "price_2": "64 euros",
}


def lines_of(split: str) -> list[tuple[str, ...]]:
    """All that customers of a split can say, a line with its variants each."""
    lines: list[tuple[str, ...]] = []
    for kind in book()["customer"]:
        lines += phrasings(split, kind)
    return lines


def sentences_of(split: str) -> set[str]:
    return set().union(*lines_of(split))


def shelf_names(split: str) -> list[str]:
    names = []
    for item in ITEMS:
        names += [p.name for p in products(split, item)]
    return names


# --- B_t ------------------------------------------------------------------------------------------

def test_context_is_a_function_of_the_transcript():
    for number in range(60):
        policy = by_teacher if number % 2 else by_chance
        before, _ = played(Shop(0, "test", number), policy)
        said = []
        for seen in before:
            said.append(seen.user)
            assert business_context(said, "test") == seen.context


# the same transcript, another agenda: the same B_t, observation and labels that an agent may see
def test_context_does_not_leak_the_agenda():
    pairs = 0
    for number in range(200):
        a = Shop(0, "test", number)
        b = Permuted(0, "test", number)
        if a.reset().user != b.reset().user:
            continue
        # those who keep their details to themselves at first
        pairs += 1
        assert a.context == b.context
        assert (a.need.order, a.need.feature) != (b.need.order, b.need.feature)
        seen_a = a.step("One moment, please.")
        seen_b = b.step("One moment, please.")
        assert seen_a.user == seen_b.user
        assert seen_a.context == seen_b.context
    assert pairs >= 50


def check_candidates(shop: Shop, context: dict[str, str]) -> None:
    names = names_of(context)
    right = [name for name in names if shop.need.right(name, "test")]
    # a guess can be wrong
    assert len(right) < len(names) <= 3
    # once all is said, one of them is right
    assert right or shop.need.hidden
    # and the right one is never marked as contradicting what was said
    for i, name in enumerate(names, 1):
        if name in right and shop.need.matched in (None, name):
            assert context[f"fit_{i}"] == "yes"


def test_one_candidate_is_wrong_and_one_is_right():
    checked = 0
    for number in range(100):
        policy = by_teacher if number % 2 else by_chance
        shop = Shop(0, "test", number)
        seen = shop.reset()
        while not over(seen):
            check_candidates(shop, seen.context)
            checked += 1
            seen = shop.step(policy(shop, seen))
    assert checked > 300


def test_fit_flags_by_hand():
    talk = ["I am looking for a kettle.", "It should be quiet.", "I can spend up to 48 euros."]
    shelf = {p.name: p for p in products("test", "kettle")}
    # nothing said: everything still fits
    first = business_context(talk[:1], "test")
    assert flags_of(first) == ["yes", "yes", "yes"]
    for n in (2, 3):
        seen = business_context(talk[:n], "test")
        for i in "123":
            p = shelf[seen[f"product_{i}"]]
            fits = p.feature == "quiet" and (n < 3 or p.price <= 48)
            # B_t and catalogue agree
            assert seen[f"price_{i}"] == f"{p.price} euros"
            assert (seen[f"fit_{i}"] == "yes") == fits
            assert seen[f"fit_{i}"] in ("yes", "no")
    last = business_context(talk, "test")
    assert {"no", "yes"} == set(flags_of(last))
    assert business_context(["Hello there!"], "test") == {}


def test_context_of_orders_by_hand():
    a, b, c = open_orders("test", "lamp")
    seen = business_context(["My lamp is broken.", f"It is order {b}."], "test")
    fits = {seen[f"order_{i}"]: seen[f"fit_{i}"] for i in "123"}
    assert fits == {a: "no", b: "yes", c: "no"}


# --- splits and shelves ---------------------------------------------------------------------------

def test_splits_share_no_sentence():
    said = {split: sentences_of(split) for split in SPLITS}
    everything = set()
    for lines in book()["customer"].values():
        for line in lines:
            everything.update(expand(line))
    assert said["train"] | said["dev"] | said["test"] == everything
    assert sum(map(len, said.values())) == len(everything)
    assert 0.1 < len(said["test"]) / len(everything) < 0.3


def test_nobody_is_left_without_words():
    for split in SPLITS:
        for kind in book()["customer"]:
            assert phrasings(split, kind)


def test_splits_share_no_name():
    names = {split: set(shelf_names(split)) for split in SPLITS}
    assert not names["train"] & names["test"]
    assert not names["train"] & names["dev"]
    assert not names["dev"] & names["test"]
    for split in SPLITS:
        for item in ITEMS:
            shelf = products(split, item)
            assert len(shelf) == len({p.name for p in shelf}) == 9


def test_an_order_number_belongs_to_one_item():
    for split in SPLITS:
        numbers = []
        for item in ITEMS:
            numbers += open_orders(split, item)
        assert len(set(numbers)) == len(numbers)


def test_expand_by_hand():
    assert expand("[a|b] c [d|e]") == ["a c d", "a c e", "b c d", "b c e"]
    assert expand("plain {product}") == ["plain {product}"]


# every fact that a customer may ask for can be stated, heard and found in B_t
def test_catalogue_and_ear_agree_on_slots():
    asked: dict[str, set[str]] = {"product": set(), "order": set()}
    for need in book()["needs"].values():
        asked[need["talk"]].update(*need["asks"])
    slots_asked = asked["product"] | asked["order"]
    assert slots_asked <= set(FACT_OF)
    for slot in slots_asked:
        assert skill_pool()[FACT_OF[slot]].needs == (slot,)
    for talk, wanted in asked.items():
        bases = {slot.rpartition("_")[0] for slot in search(Focus(talk, "tent"), "test")}
        assert wanted <= bases


def test_code_is_stable():
    assert catalogue.code("a", 1) == catalogue.code("a", 1) != catalogue.code("a", 2)


# --- the phrase book ------------------------------------------------------------------------------

@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(POOL), max_size=5),
    st.sampled_from(["product", "order", None]),
    st.sampled_from(ITEMS),
    st.integers(0, 9),
)
def test_template_says_only_what_the_context_holds(skills, talk, category, seed):
    context = search(Focus(talk, category), "test") if talk else {}
    text = template(skills, context, random.Random(seed))
    assert set(slots(text)) <= set(context)
    assert text.strip()
    assert text == template(skills, context, random.Random(seed))


def test_template_takes_the_candidate_that_fits():
    context = KETTLES | {"fit_1": "no", "fit_2": "yes"}

    def wording(*skills):
        return template(skills, context, random.Random(0))

    assert slots(wording("recommend", "state_price")) == ["product_2", "price_2"]
    assert "Prices include tax." in wording("state_price")
    assert wording() == "One moment, please."
    assert wording("state_refund").startswith("I have nothing on that.")
    # owed by the skill, facts or not
    assert "Refunds take five working days." in wording("state_refund")
