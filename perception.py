"""How the Expert reads (Sec. 3.1, step 1): texts become vectors, and u_t and e_t are guessed.

    text --sentences--> each a bag of hashed n-grams --Reader--> one vector, the greatest of all
    customer's message --Perception--> probabilities of every intent and every emotion

Sentence by sentence: one sentence that says what a customer feels is not thinned out by the others.
Hashed n-grams: any language, no pretrained weights.  The paper does not say how text is read
(GAP-9).

A reader that has seen every training sentence whole is lost when a new one lacks its favourite
word.  Therefore n-grams are *hidden* while it learns (`HideNgrams`), and whole sentences while the
Expert practises on customers (`HideSentences`).

Shapes: B texts, W width of a reader.
Try it:  python perception.py      what is read of a message, and what stays of it when hidden
Exercise: train with --sentences 1 and compare `perception, accuracy` and TSE.
"""
from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Dataset, ExpertState, Turn
from infra.progress import bar
from lm.encoder import encoder_of
from text import WORD

# Rows of the hashed text table [ours]: so many that the n-grams of a new sentence mostly fall on
# rows for which nothing was learned.
BUCKETS = 1 << 15
# A text is read as at most so many [ours]; the last takes the rest.
SENTENCES = 6
# a full stop between two digits ends no sentence
SENTENCE = re.compile(r"(?:[^.!?。！？]|(?<=\d)\.(?=\d))+[.!?。！？]*")


# --- text as bags of n-grams ---------------------------------------------------------------------

@lru_cache(200_000)
def sentences(text: str, most: int = SENTENCES) -> tuple[str, ...]:
    """At most so many, of the first 2,000 characters; an empty text has one, empty.

    >>> sentences("Where is it? It cost 12.50 euros! ")
    ('Where is it?', 'It cost 12.50 euros!')
    """
    found = [part.strip() for part in SENTENCE.findall(text[:2000]) if part.strip()]
    if len(found) > most:
        rest = " ".join(found[most - 1:])
        found = [*found[:most - 1], rest]
    return tuple(found or [""])


@lru_cache(200_000)
def features(sentence: str) -> np.ndarray:
    """Bucket numbers of the words, word pairs and character trigrams; none if it is empty."""
    lowered = sentence.lower()
    words = WORD.findall(lowered)
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:])]
    trigrams = [lowered[i:i + 3] for i in range(len(lowered) - 2)]
    return np.array([_bucket(ngram) for ngram in words + pairs + trigrams], np.int64)


# New sentences are mostly made of n-grams that were met before.
@lru_cache(100_000)
def _bucket(ngram: str) -> int:
    return zlib.crc32(ngram.encode()) % BUCKETS


# --- what is hidden ------------------------------------------------------------------------------

Bags = tuple[np.ndarray, np.ndarray]             # features, one sentence after another; counts


def joined(parts: Sequence[np.ndarray]) -> Bags:
    return np.concatenate(parts), np.array([len(part) for part in parts])


class Hiding:
    """What can be seen of sentences: here, everything."""
    changes = False                              # True: it hides something else at every reading

    def ngrams(self, found: Sequence[str]) -> Bags:
        """The features that can be seen."""
        return joined([features(s) for s in found])

    def coordinates(self, found: Sequence[str], size: int) -> np.ndarray:
        """[n, size] True where the vector of an encoder can be seen."""
        return np.ones((len(found), size), bool)


class HideNgrams(Hiding):
    """For learning from labels: a sentence loses other n-grams at every reading, up to twice
    `share` of them."""
    changes = True

    def __init__(self, share: float, seed: int):
        self.share = share
        self.rng = np.random.default_rng(seed)

    def ngrams(self, found: Sequence[str]) -> Bags:
        flat, counts = super().ngrams(found)
        kept = self.rng.random(len(flat)) >= np.repeat(self._lost(found), counts)
        sentence = np.repeat(np.arange(len(counts)), counts)
        return flat[kept], np.bincount(sentence[kept], minlength=len(counts))

    def coordinates(self, found: Sequence[str], size: int) -> np.ndarray:
        return self.rng.random((len(found), size)) >= self._lost(found)[:, None]

    def _lost(self, found: Sequence[str]) -> np.ndarray:
        return 2 * self.share * self.rng.random(len(found))


class HideSentences(Hiding):
    """For practice on customers: a share of all sentences is hard to read, as new ones will be.

    Two fifths of these cannot be read at all, the others lose 50 to 95 % of their n-grams.  What a
    sentence loses follows from (seed, sentence): it is the same whenever it is read again.
    """

    def __init__(self, share: float, seed: int):
        self.share = share
        self.seed = seed
        self.seen: dict[str, np.ndarray] = {}

    def ngrams(self, found: Sequence[str]) -> Bags:
        for sentence in found:
            if sentence not in self.seen:
                whole = features(sentence)
                kept = self._kept(sentence, len(whole))
                self.seen[sentence] = whole if kept is None else whole[kept]
        return joined([self.seen[sentence] for sentence in found])

    def coordinates(self, found: Sequence[str], size: int) -> np.ndarray:
        seen = super().coordinates(found, size)
        for row, sentence in enumerate(found):
            kept = self._kept(sentence, size)
            if kept is not None:
                seen[row] = kept
        return seen

    def _key(self, sentence: str) -> int:
        """A number of 64 bits for (seed, sentence)."""
        # no CRC: by its linearity the same sentences would be hard together at every seed
        digest = hashlib.blake2b(f"{self.seed} {sentence}".encode(), digest_size=8).digest()
        return int.from_bytes(digest)

    def _kept(self, sentence: str, size: int) -> np.ndarray | None:
        """[size] True for what can be seen of the sentence; None: all of it."""
        key = self._key(sentence)
        if key / 2**64 >= self.share:
            return None
        rng = np.random.default_rng(key)
        if rng.random() < 0.4:
            return np.zeros(size, bool)
        return rng.random(size) >= rng.uniform(0.5, 0.95)


class HideEverywhere(HideSentences):
    """For practice on logs, whose turns come back: every sentence loses up to twice `share`."""

    def _kept(self, sentence: str, size: int) -> np.ndarray:
        rng = np.random.default_rng(self._key(sentence))
        return rng.random(size) >= 2 * self.share * rng.random()


# --- the reader ----------------------------------------------------------------------------------

class Words(nn.Module):
    """Sentences as the means of their n-grams' rows; 0 where nothing can be seen."""

    def __init__(self, width: int):
        super().__init__()
        self.bag = nn.EmbeddingBag(BUCKETS, width, mode="mean")
        nn.init.normal_(self.bag.weight, std=0.02)

    def forward(self, found: Sequence[str], hiding: Hiding) -> Tensor:
        device = self.bag.weight.device
        flat, counts = hiding.ngrams(found)
        starts = torch.from_numpy(counts.cumsum() - counts).to(device)
        return self.bag(torch.from_numpy(flat).to(device), starts)


class Encoded(nn.Module):
    """Sentences as a linear map of a frozen encoder's vectors (`--encoder`)."""

    def __init__(self, width: int, folder: str):
        super().__init__()
        self.encoder = encoder_of(folder)
        self.map = nn.Linear(self.encoder.size, width)

    def forward(self, found: Sequence[str], hiding: Hiding) -> Tensor:
        seen = torch.from_numpy(hiding.coordinates(found, self.encoder.size))
        vectors = self.encoder(list(found)) * seen
        return self.map(vectors.to(self.map.weight.device))


class Reader(nn.Module):
    """Texts as vectors: of the vectors of a text's sentences the greatest value per coordinate.

    most     sentences that are read one by one
    encoder  folder of a frozen encoder; None: hashed n-grams
    """

    def __init__(self, width: int, most: int = SENTENCES, encoder: str | None = None):
        super().__init__()
        self.width = width
        self.most = most
        self.words = Encoded(width, encoder) if encoder else Words(width)
        # a mean over many n-grams is tiny compared with inputs of 0 and 1
        self.norm = nn.LayerNorm(width)
        self.lift = nn.Linear(width, width)
        # set by `reading`
        self.hiding = Hiding()
        self.memory: Memory | None = None

    @property
    def device(self) -> torch.device:
        return self.lift.weight.device

    def forward(self, texts: Sequence[str]) -> Tensor:
        """B texts -> [B, W], all >= 0.  What occurs more than once is read once."""
        if self.memory is not None and not torch.is_grad_enabled():
            return self.memory.recall(texts, self._read)
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = torch.tensor([distinct[text] for text in texts], device=self.device)
        return self._read(list(distinct)).index_select(0, rows)

    def _read(self, texts: Sequence[str]) -> Tensor:
        parts = [sentences(text, self.most) for text in texts]
        distinct = {s: i for i, s in enumerate(dict.fromkeys(chain.from_iterable(parts)))}
        vectors = self.words(list(distinct), self.hiding)
        read = F.relu(self.lift(self.norm(vectors)))  # [sentences, W]
        nothing = read.new_zeros(1, self.width)  # pads: no sentence is less than 0
        most = max(map(len, parts))
        index = []
        for found in parts:
            index += [distinct[s] for s in found]
            index += [len(distinct)] * (most - len(found))
        # index_select: its gradient is far cheaper than that of [index]
        chosen = torch.cat([read, nothing]).index_select(0, torch.tensor(index, device=self.device))
        return chosen.view(len(parts), most, self.width).amax(1)


class Memory:
    """Vectors of texts that were read before, while nothing changes how they are read."""

    def __init__(self):
        self.rows: dict[str, int] = {}
        self.table: Tensor | None = None         # [texts, W]

    def recall(self, texts: Sequence[str], read: Callable[[Sequence[str]], Tensor]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self.rows]
        if new:
            for text in new:
                self.rows[text] = len(self.rows)
            vectors = read(new)
            self.table = vectors if self.table is None else torch.cat([self.table, vectors])
        index = [self.rows[text] for text in texts]
        return self.table.index_select(0, torch.tensor(index, device=self.table.device))

    def forget(self) -> None:
        self.rows = {}
        self.table = None


def readers(module: nn.Module) -> list[Reader]:
    return [part for part in module.modules() if isinstance(part, Reader)]


@contextmanager
def reading(module: nn.Module, hiding: Hiding | None = None) -> Iterator[None]:
    """Inside, all readers of `module` hide what `hiding` hides and, without gradients, remember.

    Whoever changes their weights inside calls `forget`.  Memories do not outlive the block: what a
    step reads does not depend on the steps before it.  Where something else is hidden at every
    reading, nothing is remembered.
    """
    found = readers(module)
    hiding = hiding or Hiding()
    before = [(reader.hiding, reader.memory) for reader in found]
    for reader in found:
        reader.hiding = hiding
        reader.memory = None if hiding.changes else Memory()
    try:
        yield
    finally:
        for reader, (old_hiding, old_memory) in zip(found, before):
            reader.hiding = old_hiding
            reader.memory = old_memory


def forget(module: nn.Module) -> None:
    """The weights of its readers have changed: what they remember is out of date."""
    for reader in readers(module):
        if reader.memory is not None:
            reader.memory.forget()


# --- perception ----------------------------------------------------------------------------------

class Perception(nn.Module):
    """u_t and e_t from the customer's words: a linear head for each label set that the data has,
    on one reader, learned from labels."""

    def __init__(self, intents: Sequence[str], emotions: Sequence[str], width: int = 64,
                 most: int = SENTENCES, encoder: str | None = None):
        super().__init__()
        self.labels = {"intent": tuple(intents), "emotion": tuple(emotions)}
        self.width = width
        self.reader = Reader(width, most, encoder)
        self.heads = nn.ModuleDict()
        for name, labels in self.labels.items():
            if labels:
                self.heads[name] = nn.Linear(width, len(labels))

    @property
    def size(self) -> int:
        return sum(map(len, self.labels.values()))

    @property
    def device(self) -> torch.device:
        return self.reader.device

    def forward(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Logits [B, labels] for each label set that the data has."""
        read = self.reader(texts)
        return {name: head(read) for name, head in self.heads.items()}

    @torch.no_grad()
    def probabilities(self, states: Sequence[ExpertState]) -> Tensor:
        """[B, intents + emotions]: u_t and e_t for the policy; a true one counts as certain."""
        logits = self([s.user for s in states])
        if not logits:
            return torch.zeros(len(states), 0, device=self.device)
        parts = {name: x.softmax(-1) for name, x in logits.items()}
        for row, state in enumerate(states):
            for name, label in zip(self.labels, state.true_perception):
                if label in self.labels[name]:
                    parts[name][row] = 0.0
                    parts[name][row, self.labels[name].index(label)] = 1.0
        return torch.cat(list(parts.values()), -1)

    @torch.no_grad()
    def meaning(self, texts: Sequence[str]) -> Tensor:
        """[B, W]: what the two heads read, scaled to unit variance."""
        return F.layer_norm(self.reader(texts), (self.width,))

    @torch.no_grad()
    def perceive(self, texts: Sequence[str]) -> list[tuple[str | None, str | None]]:
        """Most probable (intent, emotion) of each text; None where the data has no such labels."""
        found = {name: [None] * len(texts) for name in self.labels}
        for name, logits in self(texts).items():
            found[name] = [self.labels[name][i] for i in logits.argmax(-1).tolist()]
        return list(zip(found["intent"], found["emotion"]))

    def fit(self, dataset: Dataset, epochs: int = 16, lr: float = 1e-2, batch: int = 128,
            seed: int = 0, hidden: float = 0.5) -> dict[str, float]:
        """Learns the labels of the training split; returns `accuracy` on the test split.

        hidden  the mean share of each sentence's n-grams that cannot be seen while it learns
        """
        turns = list(chain.from_iterable(dialogue.turns for dialogue in dataset.train))
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.Adam(self.parameters(), lr, fused=True)
        rounds = epochs if self.heads else 0
        with reading(self, HideNgrams(hidden, seed)):
            with bar("perception", rounds, leave=False) as steps:
                for _ in range(rounds):
                    for rows in torch.randperm(len(turns), generator=generator).split(batch):
                        loss = self._loss([turns[i] for i in rows])
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()
                    steps.update()
        return self.accuracy(list(chain.from_iterable(d.turns for d in dataset.test)))

    def _loss(self, turns: list[Turn]) -> Tensor:
        """Cross-entropy summed over the label sets; 0 for a batch that nobody labelled."""
        total = torch.zeros((), device=self.device)
        for name, logits in self([t.user for t in turns]).items():
            target = self._targets(name, turns)
            if (target >= 0).any():
                total = total + F.cross_entropy(logits, target, ignore_index=-1)
        return total if total.requires_grad else 0 * self.reader.lift.weight.sum()

    def _targets(self, name: str, turns: list[Turn]) -> Tensor:
        """[B] label numbers of one label set; -1 where nobody labelled the turn."""
        labels = self.labels[name]
        given = [getattr(turn, name) for turn in turns]
        numbers = [labels.index(label) if label in labels else -1 for label in given]
        return torch.tensor(numbers, device=self.device)

    @torch.no_grad()
    def accuracy(self, turns: list[Turn]) -> dict[str, float]:
        """Share of the labelled turns that are perceived rightly, by label set."""
        if not turns:
            return {}
        shares = {}
        for name, logits in self([t.user for t in turns]).items():
            target = self._targets(name, turns)
            known = target >= 0
            if known.any():
                right = logits.argmax(-1)[known] == target[known]
                shares[name] = right.float().mean().item()
        return shares


def main() -> None:
    message = "Hello. My parcel is late again! When will it come?"
    found = sentences(message)
    hidings = (Hiding(), HideNgrams(0.5, seed=0), HideSentences(0.5, seed=1))
    print(f"message: {message}\nn-grams seen: all, half of them hidden, half of all sentences hard")
    for sentence, *counts in zip(found, *(hiding.ngrams(found)[1] for hiding in hidings)):
        print(f"  {sentence:25s} " + "  ".join(f"{count:3d}" for count in counts))
    torch.manual_seed(0)
    turns = (Turn("Where is my money?", "refund", "angry"), Turn("Thank you!", "bye", "happy"))
    perception = Perception(["refund", "bye"], ["angry", "happy"])
    optimiser = torch.optim.Adam(perception.parameters(), 1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        perception._loss(list(turns)).backward()
        optimiser.step()
    for text in ("My money, where is it?", "Many thanks! Thank you."):
        print(f"perceived after two examples: {text:25s} {perception.perceive([text])[0]}")


if __name__ == "__main__":
    main()
