"""Hard constraints: the Expert's skills compiled to rules that decoding cannot break (Sec. 3.2: a^E_t is "a hard execution constraint").

    skills of a turn --compile_constraints--> Constraints --Vocabulary.rules--> Rules --Guard (one per reply)--> ids that may not come next

A forbidden phrase is caught in the decoded text, whatever the tokens, case, spacing or accents that spell it.  How: `normalise` works
character by character, so the text so far is kept token by token, and a token is banned if it holds a phrase, or if the text ends in the
first part of a phrase and the token begins with the rest.  A slot is banned as soon as no allowed slot can come of it.  Required phrases
are inserted when the reply ends.  The guard bans *before* the draw, so that log pi in Eq. 9b is that of the masked policy.

No model, no torch.  `violations` judges the final text by other means and shares no code with the guard: it is what the guarantee is
counted with.  The guarantee is about what the model writes; a value of B_t that a slot brings in is the shop's own word.
Try it:  python constraints.py        follows one guard through a reply
Exercise: let `normalise` keep spaces, and find the reply that slips through (test_csagent.py finds one in a second)."""
from __future__ import annotations

import bisect
import codecs
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from data import SLOT, DataError, Prepared, Request, Skill, fill, sayable, slots

Ban = tuple[str, np.ndarray]                     # ("ban", ids that may not come) or ("allow", the only ids that may)
NOTHING = np.empty(0, dtype=np.int64)
SEAMS = (" ", ". ", "; ", " - ", " | ", " * ", " ~ ", " • ", " — ", " / ")    # before an inserted phrase; the first that completes nothing forbidden


# ---------------------------------------------------------------------------------------------------- from skills to constraints
@dataclass(frozen=True)
class Constraints:
    """What one turn demands of the text.  Hashable: rows under the same constraints share their rules."""
    must_say: tuple[str, ...] = ()
    must_not_say: tuple[str, ...] = ()
    slots: frozenset[str] = frozenset()          # names that may stand in braces
    dropped: tuple[str, ...] = ()                # must_say that cannot be said under this turn's other rules


@cache
def _fold(char: str) -> str:
    parts = unicodedata.normalize("NFKD", char.casefold()).casefold().replace("ı", "i")
    return "".join(c for c in parts if not (c.isspace() or unicodedata.combining(c) or unicodedata.category(c) in ("Cc", "Cf") or "\ufe00" <= c <= "\ufe0f"))


def normalise(text: str) -> str:
    """What matching sees: no case, no spaces, nothing invisible, no accents, compatibility forms unfolded.

    normalise(a + b) == normalise(a) + normalise(b): that is what allows matching across tokens without decoding again.

    >>> normalise("Free SHIP\\u200bping, Ｆｒée")
    'freeshipping,free'
    """
    return "".join(map(_fold, text))


def compile_constraints(skills: Sequence[Skill], context: Mapping[str, str], global_must_not: Sequence[str] = ()) -> Constraints:
    """The union of the skills' rules; where they clash, must_not_say wins.

    skills           those chosen for this turn
    context          B_t; each `sayable` key is a slot that may be said (a wrong candidate's too: that is for the customer to notice)
    global_must_not  the shop's SOP, whatever the skills
    raises           DataError on a forbidden phrase that is blank or holds half a slot

    >>> compile_constraints([Skill("a", must_say=("Terms apply.", "Due {eta}."), must_not_say=("terms",))], {"price_1": "3"}).dropped
    ('Terms apply.', 'Due {eta}.')
    """
    forbidden = tuple(dict.fromkeys((*global_must_not, *(p for s in skills for p in s.must_not_say))))
    for phrase in forbidden:
        if not normalise(phrase) or (re.search(r"[{}]", phrase) and not SLOT.fullmatch(phrase)):
            raise DataError(f"must_not_say {phrase!r}: must hold a visible character, and braces only as one whole slot like '{{price_1}}'")
    bad = [normalise(p) for p in forbidden]

    def clean(text: str) -> bool:
        return not any(p in normalise(text) for p in bad)

    def possible(text: str) -> bool:
        return clean(text) and clean(fill(text, context)) and names.issuperset(slots(text)) and not re.search(r"[{}]", SLOT.sub("", text))

    names = frozenset(k for k in context if sayable(k) and re.fullmatch(r"\w+", k) and clean(f"{{{k}}}"))
    wanted = tuple(dict.fromkeys(p for s in skills for p in s.must_say))
    # a seam that no phrase contains always exists for real phrases; without one, inserted phrases could not be kept apart
    separable = any(all(normalise(s) not in p for p in bad) for s in SEAMS if normalise(s))
    said = tuple(p for p in wanted if separable and possible(p))
    return Constraints(said, forbidden, names, tuple(p for p in wanted if p not in said))


def prepare_plain(requests: Sequence[Request], skills: Mapping[str, Skill], must_not_say: Sequence[str]) -> list[Prepared]:
    """Requests with what their skills compile to, for a speaker that no model of ours is."""
    return [Prepared(r, constraints=compile_constraints([skills[k] for k in r.skills], r.context, must_not_say)) for r in requests]



# ---------------------------------------------------------------------------------------------------- the vocabulary, indexed
def _token_bytes(token: str, byte_level: bool) -> bytes:
    """Bytes of a vocabulary entry: GPT-2's printable alphabet, or SentencePiece's `▁` and `<0xE4>`."""
    if byte_level:
        return bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()
    return bytes([int(token[3:5], 16)]) if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else token.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes byte b as chr(b) where that prints, the others as chr(256), chr(257), ..."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in shown)}


_BYTES = _byte_alphabet()


class Vocabulary:
    """Every token as bytes and as normalised text, indexed for the questions a guard asks.  Built once per tokenizer.

    pieces   bytes of each token; b"" for one that has none
    ends     ids that end a reply
    control  ids that are never part of a reply (special tokens, chat tokens); ids without bytes are added to them
    """

    def __init__(self, pieces: Sequence[bytes], ends: Collection[int], control: Collection[int] = ()):
        self.pieces, self.ends = list(pieces), frozenset(ends)
        self.control = np.array(sorted({*control, *(i for i, p in enumerate(pieces) if not p)} - self.ends), dtype=np.int64)
        hidden = self.ends.union(self.control.tolist())
        self.texts: list[str | None] = [None if i in hidden else _text(p) for i, p in enumerate(self.pieces)]   # None: no text by itself
        ordered = sorted((t, i) for i, t in enumerate(self.texts) if t)
        self.sorted_texts, self.sorted_ids = [t for t, _ in ordered], np.array([i for _, i in ordered], dtype=np.int64)
        self.by_piece = {p: i for i, p in enumerate(self.pieces) if p and i not in hidden}
        self.by_first: dict[int, list[int]] = {}
        for i, piece in enumerate(self.pieces):
            if i not in hidden:
                self.by_first.setdefault(piece[0], []).append(i)
        self.braced = [i for i, p in enumerate(self.pieces) if b"{" in p and i not in hidden]
        self.longest = max(map(len, self.by_piece))
        for name in ("containing", "starting", "breaking", "continuing", "rules"):
            setattr(self, name, cache(getattr(self, name)))                               # asked for again by every row; dies with this object

    @classmethod
    def of(cls, tokenizer, size: int, ends: Collection[int]) -> Vocabulary:
        """size = width of the logits: models round it up, and the ids beyond the tokenizer's last must never be drawn."""
        tokens = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), size))))
        added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items()}
        byte_level = any("Ġ" in (t or "") for t in tokens)
        pieces = [added[i].encode() if i in added else _token_bytes(t or "", byte_level) for i, t in enumerate(tokens)]
        return cls(pieces + [b""] * (size - len(pieces)), ends, [i for i, t in added.items() if not SLOT.fullmatch(t)])

    def containing(self, phrase: str) -> np.ndarray:
        """Tokens that hold the whole normalised phrase."""
        return np.array([i for i, t in enumerate(self.texts) if t and phrase in t], dtype=np.int64)

    def starting(self, rest: str) -> np.ndarray:
        """Tokens whose normalised text starts with `rest`: a range of the sorted texts."""
        return self.sorted_ids[bisect.bisect_left(self.sorted_texts, rest):bisect.bisect_left(self.sorted_texts, rest + "\U0010ffff")]

    def breaking(self, names: frozenset[bytes]) -> np.ndarray:
        """Tokens that, outside a slot, open one that cannot become allowed."""
        return np.array([i for i in self.braced if not _walk(self.pieces[i], None, names)[0]], dtype=np.int64)

    def continuing(self, inside: bytes, names: frozenset[bytes]) -> np.ndarray:
        """The only tokens that keep an open slot on its way to an allowed one."""
        firsts = {n[len(inside)] for n in names if n.startswith(inside)}
        return np.array([i for b in sorted(firsts) for i in self.by_first.get(b, ()) if _walk(self.pieces[i], inside, names)[0]], dtype=np.int64)

    def rules(self, constraints: Constraints | None) -> Rules:
        """None: only control tokens are banned (`--constraints soft`)."""
        return Rules(constraints, self)

    def spell(self, text: bytes) -> list[int]:
        """Token ids of exactly these bytes, longest first; a control token can never come of it."""
        ids = []
        while text:
            n = next((n for n in range(min(self.longest, len(text)), 0, -1) if text[:n] in self.by_piece), 0)
            if not n:
                raise DataError(f"the tokenizer cannot spell {text[:20]!r} of a must_say phrase or slot: use one with byte fallback")
            ids.append(self.by_piece[text[:n]])
            text = text[n:]
        return ids


def _text(piece: bytes) -> str | None:
    try:
        return normalise(piece.decode())
    except UnicodeDecodeError:                   # part of a character: its text depends on the neighbours
        return None


def _decode(data: bytes) -> tuple[str, bytes]:
    """The characters that are certain, and the bytes of one that is still incomplete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(data), decoder.getstate()[0]


def _walk(piece: bytes, inside: bytes | None, names: Collection[bytes]) -> tuple[bool, bytes | None]:
    """Slot state after `piece`: (can it still become right?, bytes since an unclosed brace or None).  Names end in b"}"."""
    text = piece if inside is None else b"{" + inside + piece
    while (start := text.find(b"{")) >= 0:
        end = text.find(b"}", start)
        if end < 0:
            return any(n.startswith(text[start + 1:]) for n in names), text[start + 1:]
        if text[start + 1:end + 1] not in names:
            return False, None
        text = text[end + 1:]
    return True, None


class Rules:
    """Constraints against one vocabulary: all that the rows under them share."""

    def __init__(self, constraints: Constraints | None, vocab: Vocabulary):
        self.vocab, self.free = vocab, constraints is None
        c = constraints or Constraints()
        self.names = frozenset(f"{n}}}".encode() for n in c.slots)
        self.phrases = [p for p in map(normalise, c.must_not_say) if "{" not in p]        # a forbidden slot is one that `names` lacks
        self.must_say = c.must_say
        self.rests: dict[str, list[str]] = {}                                             # first part of a phrase -> what would complete it
        for phrase in self.phrases:
            for n in range(1, len(phrase)):
                self.rests.setdefault(phrase[:n], []).append(phrase[n:])
        self.window = max(map(len, self.phrases), default=1) - 1                          # longest first part
        slot_bans = NOTHING if self.free else vocab.breaking(self.names)
        self.static = np.unique(np.concatenate([vocab.control, slot_bans, *map(vocab.containing, self.phrases)]))   # whatever the text so far
        self.room = {p: len(vocab.spell(p.encode())) + 5 for p in c.must_say}             # tokens kept free for each phrase and its seam
        self.reserve = sum(self.room.values())
        self.inside = cache(self.inside)

    def says_forbidden(self, normalised: str) -> bool:
        return any(p in normalised for p in self.phrases)

    def inside(self, opened: bytes) -> np.ndarray:
        """The ids that may follow in a slot of which `opened` is written."""
        return np.setdiff1d(self.vocab.continuing(opened, self.names), self.static)


# ---------------------------------------------------------------------------------------------------- one reply being decoded
class Guard:
    """Knows the text so far and what may not come next.  `banned` before the draw, `push` after it, `finish` when the reply ends."""

    def __init__(self, rules: Rules):
        self.rules, self.vocab = rules, rules.vocab
        self.written: list[bytes] = []
        self.tail = ""                           # normalised text so far, its last `rules.window` characters
        self.pending = b""                       # bytes of an incomplete character
        self.inside: bytes | None = None         # bytes since an unclosed brace

    @property
    def text(self) -> str:
        return b"".join(self.written).decode("utf-8", "replace")

    def _seen(self) -> str:
        return self.tail + "\ufffd" if self.pending else self.tail        # what an incomplete character becomes if the next token leaves it so

    def banned(self) -> Ban:
        """Beyond `rules.static`: ("ban", ids), or inside a slot ("allow", ids).  Exact for tokens that have a text of their own."""
        if self.inside is not None:
            return "allow", self.rules.inside(self.inside)
        seen, rests = self._seen(), self.rules.rests
        found = [self.vocab.starting(r) for n in range(1, min(self.rules.window, len(seen)) + 1) for r in rests.get(seen[-n:], ())]
        return "ban", np.concatenate(found) if found else NOTHING

    def completes(self, token: int) -> bool:
        """Would this *part of a character* complete a forbidden phrase?  Asked after the draw: yes = ban the token, draw again."""
        if self.vocab.texts[token] is not None or not self.rules.phrases or token in self.vocab.ends:
            return False
        return self.rules.says_forbidden(self.tail + normalise(_decode(self.pending + self.vocab.pieces[token])[0]))

    def push(self, token: int) -> None:
        piece, text = self.vocab.pieces[token], self.vocab.texts[token]
        self.written.append(piece)
        if text is None or self.pending:
            decoded, self.pending = _decode(self.pending + piece)
            text = normalise(decoded)
        self.tail = (self.tail + text)[-self.rules.window:] if self.rules.window else ""
        if not self.rules.free and (self.inside is not None or b"{" in piece):
            self.inside = _walk(piece, self.inside, self.rules.names)[1]

    def reserve(self) -> int:
        """Tokens that `finish` may still need for the phrases not said so far."""
        said = _bare(self.text)
        return sum(room for phrase, room in self.rules.room.items() if _bare(phrase) not in said)

    def finish(self) -> list[int]:
        """Ids to insert before the reply ends: the rest of an open slot (it was cut), then each phrase that must be said and was not."""
        added = self._insert(self._slot_rest()) if self.inside is not None else []
        for phrase in self.rules.must_say:
            if _bare(phrase) not in _bare(self.text):
                added += self._insert(self.vocab.spell((self._seam(phrase) + phrase).encode()))
        return added

    def _slot_rest(self) -> list[int]:
        return self.vocab.spell(min((n[len(self.inside):] for n in self.rules.names if n.startswith(self.inside)), key=len))

    def _seam(self, phrase: str) -> str:
        """compile_constraints made sure that one of them is inside no forbidden phrase."""
        options = SEAMS if self.written else ("", *SEAMS)
        return next(s for s in options if not self.rules.says_forbidden(self._seen() + normalise(s + phrase)))

    def _insert(self, ids: list[int]) -> list[int]:
        for token in ids:
            self.push(token)
        return ids


def _bare(text: str) -> str:
    """Stricter than `normalise`: a disclaimer counts as said only with its own letters; spacing is free."""
    return "".join(unicodedata.normalize("NFC", text).split())


# ---------------------------------------------------------------------------------------------------- the judge of the guarantee
def violations(text: str, constraints: Constraints) -> list[str]:
    """What is wrong with a finished reply (its slots not yet filled).  Empty list = the reply keeps all constraints.

    >>> violations("FREE ship ping to {city}", Constraints(must_say=("Terms apply.",), must_not_say=("free shipping",)))
    ['said: free shipping', 'missing: Terms apply.', 'slot: city']
    """
    text = unicodedata.normalize("NFC", text)

    def says(phrase: str) -> bool:
        letters = [re.escape(c) for c in unicodedata.normalize("NFC", phrase) if not c.isspace()]
        return re.search(r"\s*".join(letters), text, re.IGNORECASE) is not None

    return ([f"said: {p}" for p in constraints.must_not_say if says(p)] + [f"missing: {p}" for p in constraints.must_say if not says(p)]
            + [f"slot: {name}" for name in slots(text) if name not in constraints.slots] + ["broken slot"] * bool(re.search(r"\{(?!\w+\})", text)))


def demo() -> None:
    """A vocabulary of twelve tokens; the guard says at each step what it would forbid."""
    words = ["We", " offer", " free", " ship", "ping", " SHIPPING", " for", " {", "price_1", "price_9", "}", "<end>"]
    vocab = Vocabulary([w.encode() for w in words] + [bytes([b]) for b in b" .:;Termsaply-"], ends=[words.index("<end>")])
    soothe = Skill("offer", must_say=("Terms apply.",), must_not_say=("free shipping",))
    constraints = compile_constraints([soothe], {"price_1": "3 euros", "fit_1": "yes"})
    print(constraints, "\n")
    guard = Guard(vocab.rules(constraints))
    for word in ["We", " offer", " free", " ship", " for", " {", "price_1", "}"]:
        guard.push(words.index(word))
        kind, ids = guard.banned()
        print(f"{guard.text!r:42} {kind:5} {[vocab.pieces[i].decode() for i in ids]}")
    guard.finish()
    print(f"{guard.text!r}: violations {violations(guard.text, constraints)}")


if __name__ == "__main__":
    demo()
