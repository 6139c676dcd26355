"""How the Expert reads (perception.py): sentences, what is hidden, what is remembered, u_t and e_t.
"""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import Dataset, Dialogue, ExpertState, Turn
from expert import Expert, ExpertConfig
from perception import (
    SENTENCES,
    HideEverywhere,
    HideNgrams,
    HideSentences,
    Hiding,
    Perception,
    Reader,
    features,
    forget,
    reading,
    sentences,
)
from tests.helpers import FOUR, STATE, counted, expert_of

TEXTS = [
    "Where is it? I am furious!", "I am furious!", "", "退款。谢谢！", "Hello", "!!", "One. Two? 3"]
# long enough for shares to mean something
MANY = [f"Customer number {i} asks where the parcel with lamp {i} is." for i in range(400)]


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader(16)


def read(reader: Reader, texts) -> torch.Tensor:
    with torch.no_grad():
        return reader(texts)


# --- sentences ----------------------------------------------------------------------------------

@pytest.mark.parametrize("text, wanted", [
    ("Where is it? I am furious!", ("Where is it?", "I am furious!")),
    ("no stop at the end", ("no stop at the end",)),
    ("Really?! Yes...", ("Really?!", "Yes...")),
    ("退款。谢谢！", ("退款。", "谢谢！")),
    ("", ("",)),
    ("?!", ("",)),
])
def test_sentences_by_hand(text, wanted):
    assert sentences(text) == wanted


def test_what_comes_after_the_fifth_sentence_is_one_more():
    found = sentences(" ".join(f"Number {i}." for i in range(9)))
    assert len(found) == SENTENCES == 6
    assert found[4] == "Number 4."
    assert found[5] == "Number 5. Number 6. Number 7. Number 8."


def test_one_sentence_is_the_text_as_a_whole(reader):
    text = "Where is it? I am furious!"
    assert sentences(text, 1) == (text,)
    assert sentences(text, 2) == sentences(text)
    coarse = Reader(16, most=1)
    coarse.load_state_dict(reader.state_dict())
    assert not torch.allclose(read(coarse, [text]), read(reader, [text]), atol=1e-4)
    assert torch.equal(read(coarse, ["Hello"]), read(reader, ["Hello"]))


def test_features_are_words_pairs_and_trigrams():
    # 2 words, 1 pair, 3 trigrams of "ab cd": "ab ", "b c", " cd"
    assert len(features("ab cd")) == 6
    assert features("AB cd").tolist() == features("ab CD").tolist()
    assert len(features("")) == 0
    # Hindi: a word keeps its vowel signs, 2 words as above, and 9 trigrams of 11 characters
    assert len(features("किताब कीमत?")) == 2 + 1 + 9


# --- the reader ---------------------------------------------------------------------------------

def test_a_text_is_the_greatest_of_its_sentences(reader):
    for text in TEXTS:
        alone = torch.stack([read(reader, [part])[0] for part in sentences(text)])
        assert torch.allclose(read(reader, [text])[0], alone.amax(0), atol=1e-6)
    one, both = read(reader, ["I am furious!", "Where is it? I am furious!"])
    assert (both >= one).all()
    assert (both > one).any()


@settings(max_examples=30)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=8))
def test_a_text_is_read_alike_whatever_stands_beside_it(reader, texts):
    together = read(reader, texts)
    assert together.shape == (len(texts), 16)
    for text, vector in zip(texts, together):
        assert torch.allclose(vector, read(reader, [text])[0], atol=1e-6)


def test_an_empty_text_is_read(reader):
    assert torch.isfinite(read(reader, [""])).all()
    assert torch.isfinite(read(reader, ["", "Hello"])).all()


def test_gradients_reach_every_part_of_the_reader(reader):
    reader(TEXTS).sum().backward()
    for name, p in reader.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
    reader.zero_grad()


# --- what is hidden -----------------------------------------------------------------------------

def seen_by(hiding: Hiding, found=MANY) -> list[list[int]]:
    """The features that can be seen of each sentence."""
    flat, counts = hiding.ngrams(found)
    return [part.tolist() for part in np.split(flat, counts.cumsum()[:-1])]


def is_part(some: list[int], every: list[int]) -> bool:
    """Whether `some` are of `every`, in their order."""
    rest = iter(every)
    return all(number in rest for number in some)


def test_nothing_is_hidden_of_what_is_whole():
    assert seen_by(Hiding(), TEXTS) == [features(text).tolist() for text in TEXTS]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_about_the_asked_share_of_ngrams_is_hidden(share):
    hide = HideNgrams(share, seed=0)
    first, second = seen_by(hide), seen_by(hide)
    every = seen_by(Hiding())
    kept = sum(map(len, first)) / sum(map(len, every))
    assert kept == pytest.approx(1 - share, abs=0.05)
    assert all(map(is_part, first, every))
    # others at every reading, and of some sentences up to twice the share
    assert (first == second) == (share == 0)
    least = min(len(some) / len(all_) for some, all_ in zip(first, every))
    assert least < 1 - 1.6 * share or not share
    assert seen_by(HideNgrams(share, seed=0)) == first


def test_a_sentence_is_hard_to_read_whenever_it_is_read():
    # what is seen follows from (seed, sentence), not from what was read before
    hide = HideSentences(0.5, seed=1)
    first = seen_by(hide)
    assert seen_by(hide) == first
    assert seen_by(HideSentences(0.5, seed=1), MANY[::-1]) == first[::-1]
    assert all(map(is_part, first, seen_by(Hiding())))


def test_another_seed_makes_other_sentences_hard_and_neither_the_same_nor_the_others():
    every = seen_by(Hiding())

    def hard(seed: int) -> list[bool]:
        return [some != all_ for some, all_ in zip(seen_by(HideSentences(0.5, seed)), every)]

    agreeing = [a == b for a, b in zip(hard(1), hard(2))]
    assert np.mean(agreeing) == pytest.approx(0.5, abs=0.1)


def test_a_vector_of_an_encoder_is_hidden_alike():
    # coordinates in the place of n-grams
    assert Hiding().coordinates(MANY, 50).all()
    hide = HideNgrams(0.3, seed=0)
    first = hide.coordinates(MANY, 50)
    assert first.shape == (400, 50)
    assert first.mean() == pytest.approx(0.7, abs=0.05)
    assert (hide.coordinates(MANY, 50) != first).any()
    hard = HideSentences(0.5, seed=1)
    seen = hard.coordinates(MANY, 50)
    assert (hard.coordinates(MANY[::-1], 50) == seen[::-1]).all()
    # the same sentences are hard, and some cannot be read at all
    kept = [len(some) for some in seen_by(hard)]
    every = [len(all_) for all_ in seen_by(Hiding())]
    for row, some, all_ in zip(seen, kept, every):
        assert row.all() == (some == all_)
    unreadable = [not row.any() for row in seen]
    assert 0.1 < np.mean(unreadable) < 0.35      # two fifths of a half, and few by chance


def test_on_logs_every_sentence_loses_some_and_the_same_again():
    hide = HideEverywhere(0.5, seed=1)
    first = seen_by(hide, MANY)
    assert seen_by(hide, MANY[::-1]) == first[::-1]
    assert seen_by(HideEverywhere(0.5, seed=2), MANY) != first
    every = seen_by(Hiding(), MANY)
    shares = [len(some) / len(all_) for some, all_ in zip(first, every)]
    assert 0.4 < np.mean(shares) < 0.6
    assert seen_by(HideEverywhere(0.0, seed=1), MANY) == every


@pytest.mark.parametrize("share", [0.0, 0.15, 0.6, 1.0])
def test_the_asked_share_of_sentences_is_hard_to_read(share):
    seen = seen_by(HideSentences(share, seed=3))
    kept = []
    for some, every in zip(seen, seen_by(Hiding())):
        kept.append(len(some) / len(every))
    kept = np.array(kept)
    assert (kept < 1).mean() == pytest.approx(share, abs=0.06)
    # two fifths of these cannot be read at all, the others lose 50 to 95 % of their n-grams
    assert (kept == 0).mean() == pytest.approx(0.4 * share, abs=0.06)
    partly = kept[(kept > 0) & (kept < 1)]
    if share:
        assert 0.1 < partly.mean() < 0.45
        assert partly.max() < 0.75


# --- what is remembered -------------------------------------------------------------------------

def test_a_text_is_read_once_while_nothing_learns(monkeypatch):
    reader = Reader(4)
    calls = counted(monkeypatch, reader, "_read")
    with reading(reader):
        first = read(reader, ["Hello.", "Bye.", "Hello."])
        assert torch.equal(read(reader, ["Bye.", "Hello."]), first[[1, 2]])
        assert len(calls) == 1
        # what is new is read, and what is known is not
        read(reader, ["Bye.", "New."])
        assert len(calls) == 2
        reader(["Bye."])                         # with gradients
        reader(["Bye."])
        assert len(calls) == 4
        forget(reader)
        read(reader, ["Bye."])
        assert len(calls) == 5
    read(reader, ["Bye."])
    read(reader, ["Bye."])
    assert len(calls) == 7


def test_what_was_learned_is_read_after_forgetting(reader):
    with reading(reader):
        before = read(reader, ["Hello."])
        with torch.no_grad():
            reader.lift.bias += 1
        assert torch.equal(read(reader, ["Hello."]), before)         # hence `forget`
        forget(reader)
        assert (read(reader, ["Hello."]) > before).any()
    with torch.no_grad():
        reader.lift.bias -= 1


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5), max_size=4))
def test_a_memory_changes_no_vector(reader, batches):
    plain = [read(reader, texts) for texts in batches]
    with reading(reader):
        for texts, wanted in zip(batches, plain):
            assert torch.allclose(read(reader, texts), wanted, atol=1e-6)


def test_reading_ends_as_it_began(monkeypatch):
    expert = expert_of(FOUR)
    found = [expert.user_reader, expert.reply_reader, expert.perception.reader]
    hide, other = HideSentences(1.0, 0), HideNgrams(0.5, 0)
    with pytest.raises(KeyboardInterrupt), reading(expert, hide):
        outer = [reader.memory for reader in found]
        assert all(reader.hiding is hide for reader in found)
        with reading(expert, other):
            # other n-grams at each reading: nothing to remember
            assert [reader.memory for reader in found] == [None] * 3
            assert all(reader.hiding is other for reader in found)
        assert [reader.memory for reader in found] == outer
        assert all(reader.hiding is hide for reader in found)
        raise KeyboardInterrupt
    assert all(type(reader.hiding) is Hiding for reader in found)
    assert [reader.memory for reader in found] == [None] * 3


def test_what_is_hidden_is_not_read(reader):
    nothing = read(reader, [""])
    with reading(reader, HideSentences(1.0, seed=0)):
        seen = [read(reader, [text])[0] for text in MANY]
    blank = [torch.allclose(vector, nothing[0], atol=1e-6) for vector in seen]
    assert 0.3 < np.mean(blank) < 0.5


# --- perception ---------------------------------------------------------------------------------

LABELLED = (
    Turn("Refund me at once!", "refund", "angry"),
    Turn("A refund, please.", "refund", None),
    Turn("Lovely day.", None, "happy"),
    Turn("Hello, lovely.", "hello", "happy"),
)
# Unlabelled copies outnumber the labelled one.
UNLABELLED = (Turn("Hello, lovely."),) * 3


def labelled(n: int) -> list[Dialogue]:
    return [Dialogue(str(i), LABELLED + UNLABELLED) for i in range(n)]


def test_perception_learns_its_labels():
    intents, emotions = ("refund", "hello"), ("angry", "happy")
    logs = Dataset("d", {}, intents, emotions, labelled(8), [], labelled(2))
    torch.manual_seed(0)
    perception = Perception(intents, emotions, 8)
    accuracy = perception.fit(logs, epochs=30, lr=0.05)
    # unlabelled turns are neither learned from nor counted
    assert accuracy == {"intent": 1.0, "emotion": 1.0}
    found = perception.perceive(["Refund me at once!", "Hello, lovely."])
    assert found == [("refund", "angry"), ("hello", "happy")]
    # one distribution for each label set
    total = perception.probabilities([ExpertState("x"), ExpertState("退款")]).sum(-1)
    assert torch.allclose(total, torch.tensor([2.0, 2.0]))


def test_true_labels_take_the_place_of_perceived_ones():
    # a 1 at the label; labels that do not exist, and those that nobody knows, are perceived
    perception = Perception(["refund", "hello"], ["angry", "happy"], 8)
    perceived, = perception.probabilities([ExpertState("x")])
    given_labels = (("hello", "angry"), (None, "happy"), ("bye", None))
    states = [ExpertState("x", true_perception=labels) for labels in given_labels]
    known, half, wrong = perception.probabilities(states)
    assert known.tolist() == [0, 1, 1, 0]
    assert torch.allclose(half[:2], perceived[:2])
    assert half[2:].tolist() == [0, 1]
    assert torch.allclose(wrong, perceived)


def test_perception_without_labels():
    perception = Perception([], ["angry"])
    assert perception.perceive([""]) == [(None, "angry")]
    assert perception.size == 1
    nothing = Perception([], [])
    assert nothing.perceive(["x"]) == [(None, None)]
    assert nothing.probabilities([ExpertState("x")]).shape == (1, 0)
    assert nothing.fit(Dataset("d", {}, (), (), labelled(1), [], [])) == {}
    # such logs have an Expert all the same
    assert Expert(FOUR, nothing, ExpertConfig(width=8)).act([STATE], greedy=True)
