"""The guard: which tokens may not come next, so that decoding cannot break the constraints.

    Constraints --Vocabulary.rules--> Rules --Guard, one per reply--> ids that may not come next

A forbidden phrase is caught in the decoded text, whatever the tokens, case, spacing or accents
that spell it. `normalise` works character by character, so the text so far is kept token by token.
A token is banned if it holds a phrase, or if the text ends in the first part of a phrase and the
token begins with the rest.  A slot is banned as soon as no allowed slot can come of it.  Required
phrases are inserted when the reply ends. The guard bans *before* the draw, so that log pi in Eq.
9b is that of the masked policy. No model, no torch.
Try it:  python -m lm.guard        follows one guard through a reply"""
from __future__ import annotations

import bisect
import codecs
import re
import unicodedata
from collections.abc import Collection, Sequence
from functools import cache

import numpy as np

from data import SLOT, DataError, Skill
from lm.constraints import SEAMS, Constraints, compile_constraints, normalise
from text import TAG

# ("ban", ids that may not come) or ("allow", the only ids that may)
Ban = tuple[str, np.ndarray]
NOTHING = np.empty(0, dtype=np.int64)
END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s*$")


# ------------------------------------------------------------------------------ the vocabulary
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes byte b as chr(b) if that prints, others as chr(256), chr(257), ..."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    alphabet = {chr(b): b for b in shown}
    return alphabet | {chr(256 + i): b for i, b in enumerate(hidden)}


_BYTES = _byte_alphabet()


def _token_bytes(token: str, byte_level: bool) -> bytes:
    """Bytes of a vocabulary entry: GPT-2's printable alphabet, or SentencePiece's `▁`, `<0xE4>`."""
    if byte_level:
        if all(char in _BYTES for char in token):
            return bytes(_BYTES[char] for char in token)
        return token.encode()
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


class Vocabulary:
    """Every token as bytes and as normalised text, indexed for the questions that a guard asks.

    Built once per tokenizer.

    pieces   bytes of each token; b"" for one that has none
    ends     ids that end a reply
    control  ids that are never part of a reply (special tokens, chat tokens); ids without bytes
             are added to them
    """

    def __init__(self, pieces: Sequence[bytes], ends: Collection[int],
                 control: Collection[int] = ()):
        self.pieces = list(pieces)
        self.ends = frozenset(ends)
        empty = [i for i, piece in enumerate(pieces) if not piece]
        self.control = np.array(sorted({*control, *empty} - self.ends), dtype=np.int64)
        hidden = self.ends.union(self.control.tolist())
        shown = [(i, piece) for i, piece in enumerate(self.pieces) if i not in hidden]
        # None: a token that has no text by itself.
        self.texts: list[str | None] = [None] * len(self.pieces)
        for i, piece in shown:
            self.texts[i] = _text(piece)
        ordered = sorted((text, i) for i, text in enumerate(self.texts) if text)
        self.sorted_texts = [text for text, _ in ordered]
        self.sorted_ids = np.array([i for _, i in ordered], dtype=np.int64)
        self.by_piece = {piece: i for i, piece in shown if piece}
        self.by_first: dict[int, list[int]] = {}
        for i, piece in shown:
            self.by_first.setdefault(piece[0], []).append(i)
        self.braced = [i for i, piece in shown if b"{" in piece]
        self.longest = max(map(len, self.by_piece))
        # True: an inserted phrase begins a sentence, and a reply that grows too long ends with one.
        self.whole_sentences = False
        # Every row asks for these again; the caches die with this object.
        for name in ("containing", "starting", "breaking", "continuing", "rules"):
            setattr(self, name, cache(getattr(self, name)))

    @classmethod
    def of(cls, tokenizer, size: int, ends: Collection[int]) -> Vocabulary:
        """size: width of the logits.

        Models round it up, and the ids beyond the tokenizer's last must never be drawn."""
        tokens = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), size))))
        tokens = [token or "" for token in tokens]
        added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items()}
        byte_level = any("Ġ" in token for token in tokens)
        pieces = [_token_bytes(token, byte_level) for token in tokens]
        for i, text in added.items():
            if i < len(pieces):
                pieces[i] = text.encode()
        padding = [b""] * (size - len(pieces))
        # A decision's tag may be written, where nothing forbids it.
        control = []
        for i, text in added.items():
            if not SLOT.fullmatch(text) and not TAG.fullmatch(text):
                control.append(i)
        return cls(pieces + padding, ends, control)

    def containing(self, phrase: str) -> np.ndarray:
        """Tokens that hold the whole normalised phrase."""
        found = [i for i, text in enumerate(self.texts) if text and phrase in text]
        return np.array(found, dtype=np.int64)

    def starting(self, rest: str) -> np.ndarray:
        """Tokens whose normalised text starts with `rest`: a range of the sorted texts."""
        first = bisect.bisect_left(self.sorted_texts, rest)
        end = bisect.bisect_left(self.sorted_texts, rest + "\U0010ffff")
        return self.sorted_ids[first:end]

    def breaking(self, names: frozenset[bytes]) -> np.ndarray:
        """Tokens that, outside a slot, open one that cannot become allowed."""
        found = [i for i in self.braced if not _walk(self.pieces[i], None, names)[0]]
        return np.array(found, dtype=np.int64)

    def continuing(self, inside: bytes, names: frozenset[bytes]) -> np.ndarray:
        """The only tokens that keep an open slot on its way to an allowed one."""
        firsts = {name[len(inside)] for name in names if name.startswith(inside)}
        found = []
        for byte in sorted(firsts):
            tokens = self.by_first.get(byte, ())
            found += [i for i in tokens if _walk(self.pieces[i], inside, names)[0]]
        return np.array(found, dtype=np.int64)

    def rules(self, constraints: Constraints | None) -> Rules:
        """None: only control tokens are banned (`--constraints soft`)."""
        return Rules(constraints, self)

    def spell(self, text: bytes) -> list[int]:
        """Token ids of exactly these bytes, longest first; never a control token."""
        ids = []
        while text:
            length = self._longest_start(text)
            ids.append(self.by_piece[text[:length]])
            text = text[length:]
        return ids

    def _longest_start(self, text: bytes) -> int:
        for length in range(min(self.longest, len(text)), 0, -1):
            if text[:length] in self.by_piece:
                return length
        raise DataError(
            f"the tokenizer cannot spell {text[:20]!r} of a must_say phrase or slot: "
            "use one with byte fallback"
        )


def _text(piece: bytes) -> str | None:
    try:
        return normalise(piece.decode())
    except UnicodeDecodeError:
        # Part of a character: its text depends on the neighbours.
        return None


def _decode(data: bytes) -> tuple[str, bytes]:
    """The characters that are certain, and the bytes of one that is still incomplete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(data), decoder.getstate()[0]


def _walk(piece: bytes, inside: bytes | None,
          names: Collection[bytes]) -> tuple[bool, bytes | None]:
    """Slot state after `piece`: can it still become right, and the bytes since an unclosed brace.

    inside  those bytes before it, None outside a slot
    names   allowed names, each with its b"}"
    """
    text = piece if inside is None else b"{" + inside + piece
    while (start := text.find(b"{")) >= 0:
        end = text.find(b"}", start)
        if end < 0:
            opened = text[start + 1:]
            return any(name.startswith(opened) for name in names), opened
        if text[start + 1:end + 1] not in names:
            return False, None
        text = text[end + 1:]
    return True, None


class Rules:
    """Constraints against one vocabulary: all that the rows under them share."""

    def __init__(self, constraints: Constraints | None, vocab: Vocabulary):
        self.vocab = vocab
        self.free = constraints is None
        c = constraints or Constraints()
        self.names = frozenset(f"{name}}}".encode() for name in c.slots)
        # A forbidden slot is one that `names` lacks.
        normalised = map(normalise, c.must_not_say)
        self.phrases = [phrase for phrase in normalised if "{" not in phrase]
        self.must_say = c.must_say
        # First part of a phrase -> what would complete it.
        self.rests: dict[str, list[str]] = {}
        for phrase in self.phrases:
            for n in range(1, len(phrase)):
                self.rests.setdefault(phrase[:n], []).append(phrase[n:])
        # Length of the longest first part.
        self.window = max(map(len, self.phrases), default=1) - 1
        # Banned whatever the text so far.
        slot_bans = NOTHING if self.free else vocab.breaking(self.names)
        phrase_bans = map(vocab.containing, self.phrases)
        self.static = np.unique(np.concatenate([vocab.control, slot_bans, *phrase_bans]))
        # Tokens kept free for each phrase and its seam.
        self.room = {phrase: len(vocab.spell(phrase.encode())) + 5 for phrase in c.must_say}
        self.reserve = sum(self.room.values())
        # Few beginnings of phrases occur, and every token asks.
        for name in ("inside", "completing", "begun"):
            setattr(self, name, cache(getattr(self, name)))

    def says_forbidden(self, normalised: str) -> bool:
        return any(phrase in normalised for phrase in self.phrases)

    def guard(self) -> Guard:
        return Guard(self)

    def inside(self, opened: bytes) -> np.ndarray:
        """The ids that may follow in a slot of which `opened` is written."""
        return np.setdiff1d(self.vocab.continuing(opened, self.names), self.static)

    def begun(self, tail: str, text: str) -> str:
        """The longest first part of a phrase with which tail + text ends; "" if there is none.

        It is all of a text that matters: what completes a phrase later began there or behind."""
        seen = tail + text
        for n in range(min(self.window, len(seen)), 0, -1):
            if seen[-n:] in self.rests:
                return seen[-n:]
        return ""

    def completing(self, seen: str) -> np.ndarray:
        """The ids that would complete a phrase after `seen`."""
        found = []
        for n in range(1, min(self.window, len(seen)) + 1):
            rests = self.rests.get(seen[-n:], ())
            found += [self.vocab.starting(rest) for rest in rests]
        return np.concatenate(found) if found else NOTHING


# ------------------------------------------------------------------------------ one reply
class Guard:
    """Knows the text so far and what may not come next.

    `banned` is asked before the draw, `push` follows it, `finish` ends the reply."""

    def __init__(self, rules: Rules):
        self.rules = rules
        self.vocab = rules.vocab
        self.written: list[bytes] = []
        # The end of the normalised text with which a phrase begins.
        self.tail = ""
        # Bytes of an incomplete character.
        self.pending = b""
        # Bytes since an unclosed brace.
        self.inside: bytes | None = None

    @property
    def text(self) -> str:
        return b"".join(self.written).decode("utf-8", "replace")

    def _seen(self) -> str:
        """The tail, with what an incomplete character becomes if the next token leaves it so."""
        return self.tail + "\ufffd" if self.pending else self.tail

    def banned(self) -> Ban:
        """Beyond `rules.static`: ("ban", ids), or inside a slot ("allow", ids).

        Exact for tokens that have a text of their own."""
        if self.inside is not None:
            return "allow", self.rules.inside(self.inside)
        return "ban", self.rules.completing(self._seen())

    def completes(self, token: int) -> bool:
        """Would this *part of a character* complete a forbidden phrase?

        Asked after the draw: if so, the token is banned, and another one drawn."""
        if self.vocab.texts[token] is not None or token in self.vocab.ends:
            return False
        if not self.rules.phrases:
            return False
        decoded, _ = _decode(self.pending + self.vocab.pieces[token])
        return self.rules.says_forbidden(self.tail + normalise(decoded))

    def push(self, token: int) -> None:
        piece = self.vocab.pieces[token]
        text = self.vocab.texts[token]
        self.written.append(piece)
        if text is None or self.pending:
            decoded, self.pending = _decode(self.pending + piece)
            text = normalise(decoded)
        self.tail = self.rules.begun(self.tail, text)
        in_slot = self.inside is not None or b"{" in piece
        if in_slot and not self.rules.free:
            self.inside = _walk(piece, self.inside, self.rules.names)[1]

    def reserve(self) -> int:
        """Tokens that `finish` may still need for the phrases not said so far."""
        said = _bare(self.text)
        room = self.rules.room
        return sum(room[phrase] for phrase in room if _bare(phrase) not in said)

    def finish(self) -> list[int]:
        """Ids to insert before the reply ends.

        They are the rest of an open slot (it was cut), then each required phrase that was not said.
        """
        added = self.close_slot()
        for phrase in self.rules.must_say:
            if _bare(phrase) not in _bare(self.text):
                added += self.insert(self._seam(phrase) + phrase)
        return added

    def close_slot(self) -> list[int]:
        """Ids to insert so that no slot is left open."""
        if self.inside is None:
            return []
        return self._insert(self._slot_rest())

    def insert(self, text: str) -> list[int]:
        """Ids of this text, which now stands in the reply."""
        return self._insert(self.vocab.spell(text.encode()))

    def may_insert(self, text: str) -> bool:
        """Whether the text completes nothing forbidden."""
        return not self.rules.says_forbidden(self._seen() + normalise(text))

    def _slot_rest(self) -> list[int]:
        opened = self.inside
        rests = [name[len(opened):] for name in self.rules.names if name.startswith(opened)]
        # By letters among equals: the order of a set changes from process to process.
        return self.vocab.spell(min(rests, key=lambda rest: (len(rest), rest)))

    def _seam(self, phrase: str) -> str:
        """compile_constraints made sure that one of them is inside no forbidden phrase."""
        seams = SEAMS if self.written else ("", *SEAMS)
        if self.written and self.vocab.whole_sentences and not ends_a_sentence(self.text):
            seams = (". ", *SEAMS)
        for seam in seams:
            if self.may_insert(seam + phrase):
                return seam
        raise AssertionError(f"no seam before {phrase!r}, which should have been dropped")

    def _insert(self, ids: list[int]) -> list[int]:
        for token in ids:
            self.push(token)
        return ids


def ends_a_sentence(text: str) -> bool:
    """Whether the last thing that is written ends a sentence.

    >>> ends_a_sentence("It costs {price_1}. "), ends_a_sentence("I can give you a vou")
    (True, False)
    """
    return END.search(text) is not None


def _bare(text: str) -> str:
    """Stricter than `normalise`: a disclaimer counts as said only with its own letters.

    Spacing is free."""
    return "".join(unicodedata.normalize("NFC", text).split())


# ------------------------------------------------------------------------------ to look at
def demo() -> None:
    """A vocabulary of twelve words; the guard says at each step what it would forbid."""
    words = [
        "We", " offer", " free", " ship", "ping", " SHIPPING", " for", " {", "price_1", "price_9",
        "}", "<end>",
    ]
    pieces = [word.encode() for word in words]
    pieces += [bytes([byte]) for byte in b" .:;Termsaply-"]
    vocab = Vocabulary(pieces, ends=[words.index("<end>")])
    skill = Skill("offer", must_say=("Terms apply.",), must_not_say=("free shipping",))
    constraints = compile_constraints([skill], {"price_1": "3 euros", "fit_1": "yes"})
    print(constraints, "\n")
    guard = Guard(vocab.rules(constraints))
    for word in ["We", " offer", " free", " ship", " for", " {", "price_1", "}"]:
        guard.push(words.index(word))
        kind, ids = guard.banned()
        print(f"{guard.text!r:42} {kind:5} {[vocab.pieces[i].decode() for i in ids]}")
    guard.finish()
    print(f"{guard.text!r}")


if __name__ == "__main__":
    demo()
