"""A second, independent ear for the simulated shop: which acts (skills) does a reply perform?

A gap between TSE by this ear and by the first shows a policy that learned one ear's quirks.
So the two share no list, pattern or code.

1  tokens      lower case, "can't" opened to "can not"; idioms and values of B_t become one token
2  clauses     cut at punctuation, "and", "but", "if", ...; each has a mood: whether it is asked,
               conditional, or a fragment of a refusal
3  facts       a value of B_t in an asserted clause -> recommend, state_price, ... with the
               candidates that own this value
4  other acts  a clause is compared with exemplars (exemplars.py): how large a share of an
               exemplar's idf weight does it hold?  The act is heard from THRESHOLD on

Try it:   python -m shop.second_ear        prints what is heard in a handful of replies
Exercise: set THRESHOLD to 0.5, then to 1.0; which acts are heard too often, which too rarely?"""
import re
from collections import Counter
from functools import lru_cache
from math import fsum, log
from typing import Iterable, KeysView, NamedTuple, Sequence

from shop.exemplars import (
    CONCEPTS,
    CONDITIONS,
    CUTS,
    DECLARED,
    EXEMPLARS,
    FINITE,
    FORWARD,
    IDIOMS,
    INQUIRY,
    NEGATORS,
    OPENERS,
    REQUEST,
    STOP,
)


class Act(NamedTuple):
    """One act heard."""
    kind: str                                    # a skill id, or "promise"
    candidates: frozenset[str] = frozenset()     # of a fact: each i of the slots with its value


# two terms apart reach 1 / 1.25 = 0.80: heard
# two of three neighbours reach (2 + 0.5) / (3 + 1) = 0.63: not heard
THRESHOLD = 0.7
# slot's base name -> act; other bases (fit_i) are never spoken
FACTS = {
    "product": "recommend",
    "order": "confirm_order",
    "price": "state_price",
    "stock": "state_stock",
    "eta": "state_delivery",
    "window": "state_returns",
    "refund": "state_refund",
    "size": "state_size",
    "status": "state_status",
    "part": "state_partial",
}

TOKEN = re.compile(
    r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)?|[^\W_]+|[.!?;:,()\n%…–—。！？]|(?<=\s)-(?=\s)"
)
PUNCT = set(".!?;:,()\n…–—。！？-")
FULL_STOPS = set(".!?;\n…。！？")
QUESTION_MARKS = "?？"
# crude, which is enough: stems are only compared with stems
SUFFIX = re.compile(r"(?<=...)(ing|ed|es|ly|s|e|y)$")
# "can't" and "won't" without their "n't", opened; the tails 's, 'm, 've carry no act
OPENED = {"ca": "can", "wo": "will"}
TAILS = {"ll": ["will"], "re": ["are"]}
LONG_CLAUSE = 60                                 # tokens; longer ones would only fill the cache


# --- tokens ---------------------------------------------------------------------------------------

class Phrase(NamedTuple):
    """Tokens to be folded into others."""
    tokens: list[str]
    put: list[str]
    slots: list[str]                             # whose value the tokens are; [] for an idiom


Index = dict[str, list[Phrase]]                  # first token -> phrases, longest first


def tokens_of(text: str) -> list[str]:
    """Lower-case words, numbers ("1,039" is one) and punctuation."""
    tokens: list[str] = []
    for word in TOKEN.findall(text.lower().replace("’", "'").replace("cannot", "can not")):
        base, _, tail = word.partition("'")
        if tail == "t" and base.endswith("n"):
            verb = base[:-1]
            tokens += [OPENED.get(verb, verb), "not"]
        elif word == "%":
            tokens.append("percent")
        else:
            tokens += [base, *TAILS.get(tail, [])]
    return tokens


@lru_cache(maxsize=4096)
def index_of(phrases: tuple[tuple[str, str, str], ...]) -> Index:
    """(phrase, replacement, slot) of each -> Index.

    The longest comes first: "not in stock" hides its "in stock".
    Equal phrases are one with several slots: "39 euros" may be price_1 and price_3.
    """
    table: dict[str, dict[tuple[str, ...], Phrase]] = {}
    for phrase, put, slot in phrases:
        # an empty value fits no word
        tokens = tokens_of(" ".join(phrase.split())) or [""]
        group = table.setdefault(tokens[0], {})
        entry = group.setdefault(tuple(tokens), Phrase(tokens, put.split(), []))
        if slot:
            entry.slots.append(slot)
    return {first: sorted(group.values(), key=_shortness) for first, group in table.items()}


def _shortness(phrase: Phrase) -> int:
    return -len(phrase.tokens)


def fold(tokens: list[str], *indexes: Index) -> tuple[list[str], dict[int, list[str]]]:
    """Replaces phrases, left to right.

    returns  the new tokens, and by position in them the slots of each value found
    """
    out: list[str] = []
    found: dict[int, list[str]] = {}
    i = 0
    while i < len(tokens):
        phrase = _phrase_at(tokens, i, indexes)
        if phrase.slots:
            found[len(out)] = phrase.slots
        out += phrase.put
        i += len(phrase.tokens)
    return out, found


def _phrase_at(tokens: list[str], i: int, indexes: Iterable[Index]) -> Phrase:
    """The first phrase that starts here; without one, the token itself."""
    token = tokens[i]
    for index in indexes:
        for phrase in index.get(token, ()):
            if tokens[i:i + len(phrase.tokens)] == phrase.tokens:
                return phrase
    return Phrase([token], [token], [])


# --- clauses --------------------------------------------------------------------------------------

class Clause(NamedTuple):
    tokens: tuple[str, ...]
    start: int                                   # position of its first token in the reply
    asked: bool
    condition: bool
    refused: bool                                # a fragment of what was refused before

    @property
    def asserted(self) -> bool:
        return not (self.asked or self.condition or self.refused)


def clauses(tokens: list[str]) -> list[Clause]:
    """The clauses of a reply, each with its mood."""
    read: list[Clause] = []
    # (start, end) of the pieces since the last full stop
    spans: list[tuple[int, int]] = []
    start = 0
    for i, token in enumerate([*tokens, "."]):
        if token in PUNCT or token in CUTS:
            if i > start:
                spans.append((start, i))
            # "but" opens its clause, a comma belongs to none
            start = i + 1 if token in PUNCT else i
        if token in FULL_STOPS:
            read += _moods(tokens, spans, token)
            spans = []
    return read


def _moods(tokens: list[str], spans: list[tuple[int, int]], stop: str) -> list[Clause]:
    """The clauses of one sentence, which ends with `stop`.

    A fragment is a piece without a verb, and shares the mood of the piece before: "I cannot offer a
    voucher, a discount" refuses both.  A "?" reaches back to pieces that open like a question.
    """
    clauses = []
    asked = False
    negated = False
    for n, (start, end) in enumerate(spans):
        piece = tuple(tokens[start:end])
        alone = len(piece) == 1
        # "not sure if we ..." hands its "not" on
        condition = piece[0] in CONDITIONS
        verbless = condition or FINITE.isdisjoint(piece)
        fragment = n > 0 and piece[0] != "but" and verbless
        opener = piece[1] if piece[0] in CUTS and not alone else piece[0]
        opens = n == len(spans) - 1 or opener in OPENERS
        asked = stop in QUESTION_MARKS and (opens or (fragment and asked))
        refused = fragment and negated
        clauses.append(Clause(piece, start, asked, condition, refused))
        # a bare "No," answers, it negates nothing
        negated = refused or (not alone and not NEGATORS.isdisjoint(piece))
    return clauses


# --- exemplars ------------------------------------------------------------------------------------

class Exemplar(NamedTuple):
    act: str                                     # "": neutral
    negated: bool                                # is heard in negated clauses only
    features: KeysView[str]
    weight: float


# feature -> (number of the exemplar, weight of the feature) of each
Postings = dict[str, list[tuple[int, float]]]


def _concepts() -> dict[str, str]:
    """Word -> its term; "": the word says nothing about the act.  A word listed beats its stem."""
    term_of = {}
    for head, words in CONCEPTS.items():
        term_of |= dict.fromkeys([head, *words.split()], head)
    stems = {SUFFIX.sub("", word): head for word, head in term_of.items()}
    return stems | term_of | dict.fromkeys(STOP | NEGATORS | CUTS | PUNCT, "")


IDIOM_INDEX = index_of(tuple((phrase, put, "") for phrase, put in IDIOMS.items()))
CONCEPT = _concepts()


def _term(word: str) -> str:
    if word in CONCEPT:
        return CONCEPT[word]
    stem = SUFFIX.sub("", word)
    return CONCEPT.get(stem, stem)


def _features(tokens: Sequence[str]) -> dict[str, int]:
    """Terms, and pairs of neighbouring terms, -> position of their first occurrence."""
    terms = [(_term(token), i) for i, token in enumerate(tokens)]
    terms = [(term, i) for term, i in terms if term]
    pairs = [(f"{one} {two}", i) for (one, i), (two, _) in zip(terms, terms[1:])]
    # reversed: the first of two equal features wins
    return dict(reversed(terms + pairs))


def _bags() -> list[tuple[str, bool, KeysView[str]]]:
    """(act, negated, features) of each exemplar."""
    bags = []
    for act, group in EXEMPLARS.items():
        for text in group.split("/"):
            tokens, _ = fold(tokens_of(text), IDIOM_INDEX)
            bags.append((act, not NEGATORS.isdisjoint(tokens), _features(tokens).keys()))
    return bags


def _weights(bags: list[KeysView[str]]) -> dict[str, float]:
    """Term: idf = log(1 + N / df) over N exemplars.  Pair: a quarter of the sum of its terms.

    So order helps, and the words decide.
    """
    df: Counter[str] = Counter()
    for bag in bags:
        df.update(bag)
    idf = {feature: log(1 + len(bags) / n) for feature, n in df.items()}
    weight = {}
    for feature in idf:
        if " " in feature:
            weight[feature] = sum(idf[term] for term in feature.split()) / 4
        else:
            weight[feature] = idf[feature]
    return weight


def _train() -> tuple[list[Exemplar], Postings]:
    """The exemplars with their weights, and which of them have a feature."""
    bags = _bags()
    weight = _weights([bag for _, _, bag in bags])
    model = []
    postings: Postings = {}
    for e, (act, negated, bag) in enumerate(bags):
        model.append(Exemplar(act, negated, bag, fsum(weight[feature] for feature in bag)))
        for feature in bag:
            postings.setdefault(feature, []).append((e, weight[feature]))
    return model, postings


MODEL, POSTINGS = _train()


# --- hearing --------------------------------------------------------------------------------------

class Heard(NamedTuple):
    """The heaviest exemplar of an act in a clause."""
    weight: float
    at: int                                      # position of the first word that counted
    features: set[str]


@lru_cache(maxsize=1 << 14)
def _fired(
    tokens: tuple[str, ...], asked: bool, condition: bool, refused: bool
) -> list[tuple[int, str]]:
    """(position of the first word that counted, act) of every act that one clause performs."""
    best = _best(tokens, refused)
    unfit = _unfit(tokens, asked, condition)
    fired = []
    for act, heard in best.items():
        if act and act not in unfit and not _explained_away(heard, best):
            fired.append((heard.at, act))
    return fired


def _best(tokens: tuple[str, ...], refused: bool) -> dict[str, Heard]:
    """Act -> its heaviest exemplar, of those in the right mood of which the clause holds enough."""
    here = _features(tokens)
    first_not = len(tokens)
    for i, token in enumerate(tokens):
        if token in NEGATORS:
            first_not = i
            break
    best: dict[str, Heard] = {}
    for e, weight in _scores(here).items():
        exemplar = MODEL[e]
        act = exemplar.act
        if weight < THRESHOLD * exemplar.weight:
            continue
        if act in best and weight <= best[act].weight:
            continue
        features = exemplar.features & here.keys()
        at = min(here[feature] for feature in features)
        negated = refused or first_not < len(tokens)
        if act in FORWARD and not exemplar.negated:
            negated = first_not < at
        if _agrees(exemplar, negated, here):
            best[act] = Heard(weight, at, features)
    return best


def _scores(here: dict[str, int]) -> dict[int, float]:
    """Number of an exemplar -> weight of its features that are here."""
    score: dict[int, float] = {}
    for feature in here:
        for e, weight in POSTINGS.get(feature, ()):
            score[e] = score.get(e, 0.0) + weight
    return score


def _agrees(exemplar: Exemplar, negated: bool, here: dict[str, int]) -> bool:
    """Whether the mood is that of the exemplar.  Neutral ones need all their terms, in any mood."""
    if exemplar.act:
        return negated == exemplar.negated
    return all(feature in here for feature in exemplar.features if " " not in feature)


def _unfit(tokens: tuple[str, ...], asked: bool, condition: bool) -> set[str]:
    """Acts that the mood of the clause does not allow."""
    unfit: set[str] = set()
    if asked or condition:
        unfit |= DECLARED
    if not asked and tokens[0] not in OPENERS and REQUEST.isdisjoint(tokens):
        unfit |= {"ask_need", "ask_order"}
    if asked and tokens[0] in INQUIRY:
        unfit |= {act for act in EXEMPLARS if act.startswith(("guide_", "offer_"))}
    return unfit


def _explained_away(heard: Heard, best: dict[str, Heard]) -> bool:
    """Whether all features that speak for an act belong to another one.

    "sorry to hear" is no "sorry"; "the order number is 4711" asks for none.
    """
    for act, other in best.items():
        if heard.features < other.features:
            return True
        if not act and heard.features == other.features:
            return True
    return False


def hear(text: str, context: dict[str, str]) -> list[Act]:
    """The acts of one reply (any string) under B_t (slot -> value), in the order of the text.

    At most one act per kind and clause: two prices in one clause are one state_price with both
    candidates.

    >>> hear("It costs 39 euros, not 64 euros.", {"price_1": "39 euros", "price_2": "64 euros"})
    [Act(kind='state_price', candidates=frozenset({'1'}))]
    """
    tokens, found = fold(tokens_of(text), index_of(_values(context)), IDIOM_INDEX)
    heard: list[tuple[int, Act]] = []
    for clause in clauses(tokens):
        heard += _acts(clause)
        # a question, an "if" or a "not" states no fact
        if found and clause.asserted and NEGATORS.isdisjoint(clause.tokens):
            heard += _facts(clause, found)
    heard.sort(key=_position)
    acts = [act for _, act in heard]
    # one act over two clauses is one act
    return [act for i, act in enumerate(acts) if i == 0 or act != acts[i - 1]]


def _position(heard: tuple[int, Act]) -> int:
    return heard[0]


def _values(context: dict[str, str]) -> tuple[tuple[str, str, str], ...]:
    """(value, token that stands for it, slot) of what can be stated."""
    values = []
    for slot, value in context.items():
        base = slot.rpartition("_")[0]
        if base in FACTS:
            values.append((value, f"x{base}", slot))
    return tuple(values)


def _acts(clause: Clause) -> list[tuple[int, Act]]:
    fire = _fired
    if len(clause.tokens) > LONG_CLAUSE:
        fire = _fired.__wrapped__
    fired = fire(clause.tokens, clause.asked, clause.condition, clause.refused)
    return [(clause.start + i, Act(kind)) for i, kind in fired]


def _facts(clause: Clause, found: dict[int, list[str]]) -> list[tuple[int, Act]]:
    """Facts and names of a clause, each at the position of its first value."""
    first: dict[str, int] = {}
    owners: dict[str, set[str]] = {}
    for i in range(clause.start, clause.start + len(clause.tokens)):
        for slot in found.get(i, ()):
            base, _, number = slot.rpartition("_")
            kind = FACTS[base]
            first.setdefault(kind, i)
            owners.setdefault(kind, set()).add(number)
    return [(i, Act(kind, frozenset(owners[kind]))) for kind, i in first.items()]


def demo() -> None:
    b_t = {
        "product_1": "Larch kettle",
        "price_1": "39 euros",
        "price_2": "39 euros",
        "eta_1": "on Friday",
        "eta_2": "on Monday",
    }
    replies = [
        "Hello! What is your budget?",
        "The Larch kettle costs 39 euros. Shall I put it in the basket?",
        "No voucher, sorry.",
        "I see how annoying this is, but don't worry: it arrives on Friday, not on Monday. "
        "We guarantee it! Anything else?",
    ]
    for reply in replies:
        print(reply)
        for act in hear(reply, b_t):
            print(f"    {act.kind:15} {' '.join(sorted(act.candidates))}")


if __name__ == "__main__":
    demo()
