"""lm/constraints.py and guard.py: what skills compile to, what is banned, what is found."""
import random
import time
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError, Skill
from lm.constraints import SEAMS, Constraints, compile_constraints, normalise, violations
from lm.guard import Guard, Rules, Vocabulary, _walk


def bytes_vocabulary() -> Vocabulary:
    """A token for each byte, and one that ends a reply."""
    return Vocabulary([bytes([b]) for b in range(256)] + [b"<end>"], ends=[256])


def written(guard: Guard, text: bytes) -> None:
    for token in text:
        guard.push(token)


# ------------------------------------------------------------------------------ compiled
def test_compile_clashes_by_hand():
    say = (
        "Terms apply.", "We PROMISE it.", "Due {eta}.", "Costs {price_1}.", "See {fit_1}",
        "half {price_1",
    )
    skill = Skill("s", must_say=say, must_not_say=("pro mise", "{stock}"))
    other = Skill("t", must_say=("Terms apply.",))
    context = {"price_1": "3", "fit_1": "yes", "stock": "2"}
    c = compile_constraints([skill, other], context, ("lawsuit",))
    assert c.must_say == ("Terms apply.", "Costs {price_1}.")
    assert c.must_not_say == ("lawsuit", "pro mise", "{stock}")
    assert c.slots == {"price_1"}
    assert c.dropped == ("We PROMISE it.", "Due {eta}.", "See {fit_1}", "half {price_1")


def test_a_skill_without_its_facts_demands_that_this_is_said():
    pay = Skill("pay", must_say=("Five days.",), needs=("refund",), otherwise=("Nothing found.",))
    assert compile_constraints([pay], {"refund_1": "3 euros"}).must_say == ("Five days.",)
    assert compile_constraints([pay], {"price_1": "3 euros"}).must_say == ("Nothing found.",)
    plain = replace(pay, otherwise=())
    assert compile_constraints([plain], {}).must_say == ("Five days.",)


def test_a_phrase_is_dropped_if_only_its_filled_text_says_forbidden_words():
    clash = Skill("v", must_say=("It costs {price_1}.",), must_not_say=("costs 30",))
    assert compile_constraints([clash], {"price_1": "30"}).dropped


@pytest.mark.parametrize("phrase", ["", " \u200b", "{price", "a {price_1}"])
def test_compile_refuses(phrase):
    with pytest.raises(DataError, match="must_not_say"):
        compile_constraints([], {}, (phrase,))


def scripts_with_case() -> list[int]:
    """Code points of all scripts that have letters in two cases or in several forms."""
    found = []
    for block in ((0, 0x3100), (0xA640, 0xD7A4), (0xF900, 0x10500), (0x1E900, 0x1E950)):
        found += range(*block)
    return found


def test_normalise_covers_every_case_pair_of_the_validator():
    import _sre
    for i in scripts_with_case():
        c = chr(i)
        forms = [
            unicodedata.normalize("NFD", c),
            unicodedata.normalize("NFC", c),
            chr(_sre.unicode_tolower(i)),
        ]
        assert {normalise(form) for form in forms} == {normalise(c)}, hex(i)
    # pairs that only re.IGNORECASE knows
    assert normalise("ı") == normalise("i")
    assert normalise("ſ") == normalise("s")


def test_validator_by_hand():
    c = Constraints(
        must_say=("Terms apply.",), must_not_say=("free shipping", "包邮"),
        slots=frozenset({"eta"}),
    )
    assert violations("By {eta}. terms  apply.", c) == []
    assert violations("F R E E\nshipping 包 邮 {price} {eta", c) == [
        "said: free shipping", "said: 包邮", "missing: Terms apply.", "slot: price", "broken slot",
    ]


# ------------------------------------------------------------------------------ the guard
def brute_force(vocab: Vocabulary, rules: Rules, tokens: list[int]) -> set[int]:
    """What may not come next, from the definition: push the token, look at the whole text."""
    text = b"".join(vocab.pieces[t] for t in tokens)
    ok, inside = _walk(text, None, rules.names)
    assert ok
    banned = set(vocab.control.tolist())
    for i, piece in enumerate(vocab.pieces):
        if i in vocab.ends:
            wrong = inside is not None
        else:
            read = normalise((text + piece).decode("utf-8", "replace"))
            said = any(phrase in read for phrase in rules.phrases)
            wrong = piece and (said or not _walk(text + piece, None, rules.names)[0])
        if wrong:
            banned.add(i)
    return banned


def banned_by(guard: Guard, size: int) -> set[int]:
    """All that the guard bans: its rules' static bans, those of the moment, parts of characters."""
    every = set(range(size))
    kind, ids = guard.banned()
    banned = {*guard.rules.static.tolist(), *ids.tolist()}
    if kind == "allow":
        banned = every - set(ids.tolist())
    return banned | {i for i in every - banned if guard.completes(i)}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_guard_bans_exactly_what_brute_force_bans(data):
    word = st.text("abA {}x", min_size=1, max_size=4)
    words = data.draw(st.lists(word, min_size=5, max_size=40, unique=True))
    letters = [*words, *"ab {}x_1é"]
    pieces = list(dict.fromkeys(text.encode() for text in letters))
    pieces += [b"\xc3", b"\xa9", b"<end>", b"<pad>", b""]
    end = len(pieces) - 3
    vocab = Vocabulary(pieces, ends=[end], control=[end + 1])
    phrase = st.text("abxeB ", min_size=1, max_size=4).filter(str.strip)
    phrases = data.draw(st.lists(phrase, max_size=4))
    names = data.draw(st.sets(st.sampled_from(["a", "ab", "x_1", "bbx"])))
    skill = Skill("s", must_not_say=tuple(phrases))
    rules = vocab.rules(compile_constraints([skill], dict.fromkeys(names, "1")))
    guard = Guard(rules)
    tokens: list[int] = []
    for _ in range(12):
        banned = banned_by(guard, len(pieces))
        assert banned == brute_force(vocab, rules, tokens)
        free = sorted(set(range(len(pieces))) - banned - vocab.ends)
        token = data.draw(st.sampled_from(free or [end]))
        if token in vocab.ends:
            break
        guard.push(token)
        tokens.append(token)
        pushed = b"".join(pieces[t] for t in tokens)
        assert guard.text.encode() == pushed.decode("utf-8", "replace").encode()


def test_a_character_in_pieces_cannot_complete_a_phrase():
    # 邮 = e9 82 ae: only `completes` can see the last byte
    guard = Guard(bytes_vocabulary().rules(Constraints(must_not_say=("包邮",))))
    for b in "包".encode() + b" \xe9\x82":
        assert not guard.completes(b)
        guard.push(b)
    assert guard.completes(0xAE)
    assert not guard.completes(0xAF)


def test_required_phrases_are_inserted_across_safe_seams():
    # " " would complete "freeterms", ". " is free
    say = ("Terms apply.", "terms apply", "x{a}")
    skill = Skill("s", must_say=say, must_not_say=("free terms",))
    c = compile_constraints([skill], {"a": "1", "abc": "2"})
    rules = bytes_vocabulary().rules(c)
    guard = Guard(rules)
    written(guard, b"It is free{ab")
    guard.finish()
    assert guard.text == "It is free{abc} Terms apply. terms apply x{a}"
    assert not violations(guard.text, c)
    guard = Guard(rules)
    written(guard, b"free")
    guard.finish()
    assert guard.text.startswith("free. Terms apply.")
    assert not violations(guard.text, c)


def test_without_a_free_seam_nothing_can_be_required():
    seams = tuple(seam.strip() for seam in SEAMS if seam.strip())
    skill = Skill("s", must_say=("a",), must_not_say=seams)
    assert compile_constraints([skill], {}).dropped == ("a",)


def test_large_vocabulary_is_indexed_in_seconds():
    rng = random.Random(0)
    start = time.perf_counter()
    letters = "abcdefghijklmnopqrstuvwxyz "
    pieces = ["".join(rng.choices(letters, k=7)).encode() for _ in range(150_000)]
    vocab = Vocabulary(pieces, ends=[0])
    Guard(vocab.rules(Constraints(must_not_say=("free shipping", "lawsuit")))).banned()
    assert time.perf_counter() - start < 10


def test_a_slot_may_bear_a_name_of_any_script():
    context = {"कीमत": "500", "ราคา_1": "30", "fit_type": "slim", "fit_1": "yes"}
    constraints = compile_constraints([Skill("a", must_say=("{कीमत}!",))], context)
    assert constraints.slots == {"कीमत", "ราคา_1", "fit_type"}
    assert constraints.must_say == ("{कीमत}!",)
    assert violations("{कीमत}! {ราคา_1} {fit_type}", constraints) == []
    assert violations("{कीमत}! {fit_1}", constraints) == ["slot: fit_1"]
