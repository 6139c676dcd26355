"""The two brand stores: honest like mgshop, alike in labels, unlike in words.

test_mgshop.py holds the engine to honesty; here are the books, B_t and the ears of the two stores.
What is trained, tried and measured on them is in test_tmallbrand_runs.py."""
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError, fill, slots
from shop import ear, second_ear
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
    update_focus,
)
from shop.customer import Shop
from shop.ear import hear
from shop.mgshop import intents
from tests.customers import (
    SPLITS,
    Permuted,
    by_chance,
    by_teacher,
    customer,
    flags_of,
    names_of,
    over,
    played,
    say,
    says_all,
)

A, B = BRANDS = ("tmallbrand-a", "tmallbrand-b")
BRAND = pytest.mark.parametrize("brand", BRANDS)
EARS = pytest.mark.parametrize("listen", [hear, second_ear.hear], ids=["patterns", "exemplars"])
SKILLS = list(skill_pool(A))


def sentences(name: str) -> dict[str, list[str]]:
    """Everything customers of a shop can say, by kind of utterance."""
    said = {}
    for kind, lines in book(name)["customer"].items():
        said[kind] = []
        for line in lines:
            said[kind] += expand(line)
    return said


def all_sentences(name: str) -> set[str]:
    return set().union(*sentences(name).values())


def wording(name: str) -> set[str]:
    """Everything the shop's phrase book can say."""
    said = {book(name)["evasion"], book(name)["silence"]}
    for skill in skill_pool(name).values():
        said |= {*skill.examples, *skill.must_say}
    return said


def items(name: str) -> list[str]:
    return list(book(name)["categories"])


def first_shelf(name: str) -> tuple[str, dict]:
    return next(iter(book(name)["categories"].items()))


def kinds(heard) -> list[str]:
    return [act.kind for act in heard]


# --- what A and B share, and what they do not -----------------------------------------------------

def test_a_and_b_speak_one_language_of_labels():
    a = skill_pool(A)
    b = skill_pool(B)
    assert list(a) == list(b)
    assert len(a) == 24
    # mgshop's acts keep their names
    assert set(skill_pool()) < set(a)
    for one, two in zip(a.values(), b.values()):
        assert (one.description, one.needs, one.task) == (two.description, two.needs, two.task)
    assert intents(A) == intents(B)
    new = {"find_product", "partial_refund", "wrong_item", "ask_status", "ask_size"}
    assert set(intents(A)) > new
    assert {need["talk"] for need in book(A)["needs"].values()} == {"product", "order"}
    assert book(A)["customer"].keys() == book(B)["customer"].keys()


@pytest.mark.parametrize("talk", ["product", "order"])
def test_a_and_b_have_the_same_slots(talk):
    of_a = list(search(Focus(talk, items(A)[0]), "test", A))
    of_b = list(search(Focus(talk, items(B)[0]), "test", B))
    assert of_a == of_b
    assert len(of_a) >= 18


def names(shop: str) -> set[str]:
    return set().union(*book(shop)["names"].values())


def features(shop: str) -> set[str]:
    return set().union(*(shelf["features"] for shelf in book(shop)["categories"].values()))


@pytest.mark.parametrize("one, two", [(A, B), (A, "mgshop"), (B, "mgshop")])
def test_no_two_shops_share_a_sentence_or_a_name(one, two):
    assert not all_sentences(one) & all_sentences(two)
    assert not wording(one) & wording(two)
    assert not set(items(one)) & set(items(two))
    assert not names(one) & names(two)


def test_a_and_b_share_no_feature_and_no_ban():
    assert features(A).isdisjoint(features(B))
    assert set(book(A)["must_not_say"]).isdisjoint(book(B)["must_not_say"])


@BRAND
def test_splits_share_no_sentence(brand):
    for kind, said in sentences(brand).items():
        parts = []
        for split in SPLITS:
            part = []
            for line in phrasings(split, kind, brand):
                part += line
            assert part
            parts += part
        assert sorted(parts) == sorted(said)
        assert len(set(said)) == len(said)


@BRAND
def test_splits_share_no_product_and_no_order(brand):
    shelf = set()
    for split in SPLITS:
        numbers = []
        for item in items(brand):
            shelf |= {p.name for p in products(split, item, brand)}
            numbers += open_orders(split, item)
        assert len(set(numbers)) == len(numbers) == 24
    assert len(shelf) == 3 * 8 * 9


# --- what the back office understands -------------------------------------------------------------

# a need speaks of its item, in its kind of talk
@BRAND
def test_the_focus_follows_what_was_said(brand):
    for kind, spec in book(brand)["needs"].items():
        for i, line in enumerate(sentences(brand)[f"need.{kind}"]):
            item = items(brand)[i % 8]
            said = line.replace("{category}", item)
            assert update_focus(Focus(), said, "test", brand) == Focus(spec["talk"], item), line


# no other words are taken for a wish
@BRAND
def test_other_words_do_not_move_the_focus(brand):
    anything = Focus("product", items(brand)[0])
    for kind, said in sentences(brand).items():
        if kind == "accept.product":
            continue
        for line in said:
            utterance = line.replace("{category}", "")
            assert update_focus(anything, utterance, "test", brand) == anything, line


@BRAND
def test_details_are_understood(brand):
    item, shelf = first_shelf(brand)
    feature = shelf["features"][1]
    size = shelf["sizes"][2]
    number = open_orders("test", item)[1]
    said = sentences(brand)
    for kind, value in (("feature", feature), ("budget", 333), ("size", size)):
        wanted = Focus("product", item, **{kind: value})
        for line in said[f"detail.{kind}"]:
            utterance = line.format(**{kind: value})
            assert update_focus(Focus("product", item), utterance, "test", brand) == wanted, line
    for line in said["detail.order"]:
        focus = update_focus(Focus("order", item), line.format(order=number), "test", brand)
        assert focus.order == number


# of nine products each lacks one of three sizes: every feature and size has two, of different price
@BRAND
def test_sizes_by_hand(brand):
    item, shelf = first_shelf(brand)
    named = {p.name: p for p in products("test", item, brand)}
    stocked: Counter = Counter()
    for p in named.values():
        stocked.update((p.feature, size) for size in p.sizes)
    assert set(stocked.values()) == {2}
    assert len(stocked) == 9

    feature = shelf["features"][0]
    size = shelf["sizes"][1]
    phrases = sentences(brand)
    said = [
        f"Show me a {item}.",
        phrases["detail.feature"][0].format(feature=feature),
        phrases["detail.size"][0].format(size=size),
    ]
    seen = business_context(said, "test", brand)
    for i in "123":
        p = named[seen[f"product_{i}"]]
        fits = p.feature == feature and size in p.sizes
        assert seen[f"size_{i}"] == " and ".join(p.sizes)
        assert seen[f"price_{i}"] == f"{p.price} yuan"
        assert (seen[f"fit_{i}"] == "yes") == fits
    assert sorted(flags_of(seen)) == ["no", "yes", "yes"]


def test_mgshop_has_no_sizes():
    assert all(p.sizes == () for p in products("test", "kettle"))
    assert "size_1" not in business_context(["I am looking for a kettle."])


# else one amount could be heard as both
@BRAND
def test_a_share_is_never_a_whole(brand):
    for item in items(brand):
        seen = search(Focus("order", item), "test", brand)
        shares = {v for k, v in seen.items() if k.startswith("part_")}
        wholes = {v for k, v in seen.items() if k.startswith("refund_")}
        assert shares
        assert wholes
        assert not shares & wholes


def test_an_unknown_shop_is_refused():
    with pytest.raises(DataError, match=r"tmallbrand-c.*tmallbrand-a"):
        book("tmallbrand-c")


# --- B_t ------------------------------------------------------------------------------------------

@BRAND
def test_context_is_a_function_of_the_transcript(brand):
    for number in range(60):
        policy = by_teacher if number % 2 else by_chance
        before, _ = played(Shop(0, "test", number, name=brand), policy)
        said = []
        for seen in before:
            said.append(seen.user)
            assert business_context(said, "test", brand) == seen.context


@BRAND
def test_context_does_not_leak_the_agenda(brand):
    pairs = 0
    for number in range(200):
        a = Shop(0, "test", number, name=brand)
        b = Permuted(0, "test", number, name=brand)
        if a.reset().user != b.reset().user:
            continue
        # those who keep their details to themselves at first
        pairs += 1
        seen_a = a.step("Hm.")
        seen_b = b.step("Hm.")
        hidden_a = (a.need.order, a.need.feature, a.need.size)
        hidden_b = (b.need.order, b.need.feature, b.need.size)
        assert hidden_a != hidden_b
        assert seen_a.user == seen_b.user
        assert seen_a.context == seen_b.context
    assert pairs >= 50


def check_candidates(shop: Shop, context: dict[str, str]) -> None:
    candidates = names_of(context)
    right = [name for name in candidates if shop.need.right(name, "test")]
    assert len(right) < len(candidates) <= 3
    assert right or shop.need.hidden
    for i, name in enumerate(candidates, 1):
        if name in right and shop.need.matched in (None, name):
            assert context[f"fit_{i}"] == "yes"


@BRAND
def test_one_candidate_is_wrong_and_one_is_right(brand):
    checked = 0
    for number in range(120):
        policy = by_teacher if number % 2 else by_chance
        shop = Shop(0, "test", number, name=brand)
        seen = shop.reset()
        while not over(seen):
            check_candidates(shop, seen.context)
            checked += 1
            seen = shop.step(policy(shop, seen))
    assert checked > 400


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(BRANDS),
    st.lists(st.sampled_from(SKILLS), max_size=5),
    st.sampled_from(["product", "order", None]),
    st.integers(0, 7),
    st.integers(0, 9),
)
def test_template_says_only_what_the_context_holds(brand, skills, talk, item, seed):
    context = search(Focus(talk, items(brand)[item]), "test", brand) if talk else {}
    text = template(skills, context, random.Random(seed), brand)
    assert set(slots(text)) <= set(context)
    assert text.strip()


# --- the ears -------------------------------------------------------------------------------------

@BRAND
@EARS
@pytest.mark.parametrize("skill", SKILLS)
def test_the_ears_hear_the_phrase_book(brand, listen, skill):
    record = skill_pool(brand)[skill]
    of_products = set(record.needs) & {"product", "price", "stock", "size"}
    talk = "product" if of_products else "order"
    for item in items(brand):
        context = search(Focus(talk, item), "test", brand)
        for example in record.examples:
            for need in record.needs:
                example = example.replace(f"{{{need}}}", f"{{{need}_2}}")
            heard = listen(fill(example, context), context)
            assert kinds(heard) == [skill]
            assert not record.needs or "2" in heard[0].candidates


@BRAND
@EARS
def test_must_say_is_no_act(brand, listen):
    context = search(Focus("order", items(brand)[0]), "test", brand)
    owed = []
    for skill in skill_pool(brand).values():
        owed += skill.must_say
    assert len(owed) >= 5
    for phrase in [*owed, book(brand)["evasion"], book(brand)["silence"]]:
        assert listen(phrase, context) == []


@BRAND
@EARS
def test_must_not_say_is_a_promise(brand, listen):
    context = search(Focus("order", items(brand)[0]), "test", brand)
    phrases = book(brand)["must_not_say"]
    assert len(phrases) == 4
    for phrase in phrases:
        promised = f"{phrase[0].upper()}{phrase[1:]} it."
        assert kinds(listen(promised, context)) == ["promise"]


@BRAND
def test_the_phrase_book_says_nothing_banned(brand):
    banned = list(book(brand)["must_not_say"])
    for skill in skill_pool(brand).values():
        banned += skill.must_not_say
    assert len(banned) >= 6
    for said in wording(brand):
        assert not any(phrase.lower() in said.lower() for phrase in banned), said


# the sentences were written before any ear was run on them
@EARS
def test_ears_on_held_out_sentences(listen):
    rates = ear.examine(listen, "held_out", "tmallbrand_sentences.json")
    assert rates["sentences"] >= 80
    assert rates["hit"] >= 0.8
    assert rates["false_alarm"] <= 0.05


def test_guide_refund_is_an_act_here_and_nothing_in_mgshop():
    offer = "Shall I release the payment to your account?"
    for listen in (hear, second_ear.hear):
        assert kinds(listen(offer, {})) == ["guide_refund"]
    # no skill of mgshop: its customers take it as words
    shop = Shop(0, "train", 0)
    shop.reset()
    assert shop.step(offer)
    assert shop.heard == []


# --- what is new in their talks -------------------------------------------------------------------

def asks_status_alone(s: Shop) -> bool:
    status = s.need.kind == "status" and s.need.asks == ["status"]
    return status and says_all(s) and len(s.agenda) == 1


@BRAND
@pytest.mark.parametrize("early", [True, False])
def test_the_payout_is_accepted_after_the_facts(brand, early):
    shop = customer(asks_status_alone, name=brand, demand="rigid")
    second = "guide_refund" if early else "state_status"
    say(shop, "confirm_order", second)
    assert not shop.need.guided
    assert shop.completed == [1, None if early else 1, None]
    assert say(shop, "guide_refund").outcome.success is not early


@BRAND
def test_a_wrong_status_is_noticed(brand):
    def several_states(s: Shop) -> bool:
        states = {v for k, v in s.context.items() if k.startswith("status_")}
        return s.need.kind == "status" and says_all(s) and len(states) > 1

    shop = customer(several_states, name=brand)
    say(shop, "confirm_order")
    context = shop.context
    mine = next(k[-1] for k, v in context.items() if v == shop.need.matched)
    wrong = next(i for i in "123" if context[f"status_{i}"] != context[f"status_{mine}"])
    shop.step(f"Your refund is {{status_{wrong}}}.")
    assert "status" not in shop.need.told
    assert shop.intent == "object"


@BRAND
def test_a_changed_wish_can_be_met(brand):
    changed = 0
    for number in range(300):
        shop = Shop(0, "train", number, name=brand)
        shop.reset()
        first = shop.need
        wish = first.feature
        if shop.change_at != 0 or first.talk != "product":
            continue
        while shop.need is first and not first.guided:
            say(shop, *shop.teacher())
        changed += first.feature != wish
        # what was bought in the end is what was wanted in the end
        assert first.right(first.matched, "train")
    assert changed >= 8
