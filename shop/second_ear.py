"""A second, independent ear for the simulated shop: which acts (skills) does one customer service reply perform?

A gap between TSE by this ear and by the first shows a policy that learned one ear's quirks; so the two share no list, pattern or code.
  1  tokens     lower case, "can't" opened to "can not", idioms and values of B_t folded into one token each
  2  clauses    cut at punctuation, "and", "but", "if", ...; each knows whether it is asked, conditional, or a fragment of a refusal
  3  facts      a value of B_t in an asserted clause -> recommend, state_price, ... with the candidates that own this value
  4  other acts a clause against exemplars: the share of an exemplar's idf weight (stems, pairs of stems) it holds; heard from THRESHOLD
Try it:   python second_ear.py        prints what is heard in a handful of replies
Exercise: set THRESHOLD to 0.5, then to 1.0; which acts are heard too often, which too rarely?"""
import re
from functools import lru_cache
from math import fsum, log
from typing import NamedTuple


class Act(NamedTuple):
    """One act heard: its kind and, for a fact, the numbers i of the slots (price_i, ...) that own the value named."""
    kind: str
    candidates: frozenset[str] = frozenset()

THRESHOLD = 0.7          # two terms apart reach 1 / 1.25 = 0.80: heard; two of three neighbours (2 + 0.5) / (3 + 1) = 0.63: not
FACTS = {"product": "recommend", "order": "confirm_order", "price": "state_price", "stock": "state_stock", "eta": "state_delivery",
         "window": "state_returns", "refund": "state_refund", "size": "state_size", "status": "state_status", "part": "state_partial"}    # slot's base name -> act; other bases (fit_i) are never spoken
# Exemplars, "/" between them, written as skeletons: small talk only dilutes.  xwindow, xorder, ... stand for a value of that base.
# One with a negator is heard in negated clauses only ("do not hesitate"), one without in affirmed clauses only.
EXEMPLARS = {
    "greet": "thank you for contacting us / thank for reaching out / thank you for contacting / hello / hi / hey / welcome / greetings / good morning / good afternoon / good evening / nice to meet you",
    "ask_need": """what look for / have in mind / which product / what kind / what sort / what budget / have a budget / want to spend / how spend / which colour / what colour / which size / what size wear /
        which effect / tell size / tell colour / describe need / describe what after / name budget / which feature / what matters / what need / tell need / you prefer / what size / what use / which like / price range / up to which price / what able to do""",
    "ask_order": "order number / number of your order / which order / what order / the number on the confirmation",
    "empathise": "understand how feel / understand upset / sorry to hear / be upset / i feel for you / how upset / real pity / not expected / why let down / you are let down",
    "apologise": "sorry / sorry for the upset / sorry for the trouble / forgive us / excuse the delay / excuse the mistake",
    "reassure": """no worry / fix / take care of it / take care of this / in good hands / everything fine / be assured / find a solution / stay calm / be assured nothing lost
        / relax / under control / put it right""",
    "guide_checkout": """put in the basket / add to your basket / place order / checkout / go to the basket / finish order / finish purchase / buy
        it now / tap buy / pay for it here / pay for it right / place in basket / lay in basket / order with one tap / order it now / order it online / click buy / order it here""",
    "guide_tracking": """follow the parcel / follow the order / track the parcel / track the order / track link / track page / track number / track map / send track code / see
        where parcel / see where order / track it here / follow it online""",
    "guide_return": """send it back / send back / return label / print the label / please return it / set up a return / return form / bring it back / prepaid label /
        put label on / stick label on / label in inbox / send a label / get a label / put this label""",
    "guide_refund": """release payment / release money / book payout / start payout / start transfer / pay money out / pay it out / confirm bank account
        / confirm account / transfer it / transfer money to account / transfer to account / have money sent / have sum paid / money sent to card""",
    "guide_exchange": """send a swap / set a swap / swap it / swap the item / swap kettle / swap way / get a swap / get a new one / send a new one /
        new one way / offer a swap / start the swap / swap will arrive / book a swap / prepare a swap""",
    "offer_voucher": """offer a voucher / tell you a voucher / here is a voucher / send a voucher / add a voucher / get a voucher / goodwill gesture
        / voucher for next order / percent off / euros off / use the voucher / accept voucher / like voucher / voucher for the trouble""",
    "upsell": """also like / also suggest / suggest too / also recommend / also need / goes well with / pairs well with / customers also buy / extra
        interest / extra also / add a second / how add / whynot add / like to add / also add / perfect addition / also interest you / suggest accessory / suggest a matching accessory / extra equipment / look at extra equipment
        / go nicely with / pair nicely / think of matching / thought about matching / recommend a matching / look at bundle / matching belt""",
    "close": """thank you / something more / what else do / anything else / something else / other question / further question / more questions / do not hesitate / have a nice day
        / have a nice evening / nice weekend / goodbye / bye""",
    "promise": "guarantee / promise / hundred percent / nomatter what / absolutely certain / whatever happens / tell you my word",
    # Neutral clauses that share words with an act.  Heard in full, they explain away every exemplar they contain (see `_fired`).
    "": """send it back within xwindow / as thank you / track shows it / return it within xwindow / xwindow return it / get voucher already / have voucher already / year guarantee / guarantee
        period / guarantee covers / send back money / xorder order number / which order xorder / add swap filter / already sent it back""",
}
# One term for words that mean the same here, "head: others"; the exemplars are read through this table too.
CONCEPTS = dict(row.split(":") for row in """sorry: apologise apologize apologies apology regret / hello: hallo / goodwill: gesture / thank: thanks
    / get: receive got / buy: purchase / understand: see know realise appreciate imagine hear recognise understandable / nice: great lovely good
    wonderful / upset: disappointed disappointing disappointment irritating frustrated frustrating frustration annoyed annoying annoyance angry
    anger unhappy unpleasant inconvenience stressful upsetting concern / worry: worries worried / fix: sort sorted resolve resolved solve handle /
    go: goes / fine: okay ok alright / basket: cart bag trolley / new: fresh another / parcel: package shipment packet delivery / voucher: coupon
    discount credit code / swap: exchange exchanged replacement replace substitute / send: sent ship shipped mail post email / track: tracking /
    item: goods article / tell: give share provide / product: model / set: arrange organise / matter: important / add: include / extra: matching
    additional / guarantee: guaranteed / promise: promises / certain: sure / finish: complete / question: questions""".split("/"))
# Folded before anything else: harmless uses of a negator, hidden negators, fixed phrases.
IDIOMS = dict(row.split(":") for row in """no problem: / no matter: nomatter / not only: / not just: / why not: whynot / no longer: not / no later
    than: / no extra: free / no cost: free / no charge: free / without delay: / not forget: / instead of: without / rather than: without / i wish:
    not / we wish: not / what a pity: real pity / you are welcome: / check out our: look / check out the: look / check out: checkout / gift card:
    voucher / credit card: card / 100 percent: hundred percent / let me know: tell / thanks to: / have my word: promise""".split("/"))
NEGATORS = set("not no none never nothing neither nor without unable impossible refuse hardly nobody dont cant wont isnt doesnt didnt".split())
AUXILIARY = set("is are was were do does did can could will would shall should may might has have had".split())
STOP = AUXILIARY - {"will", "have"} | set("""a an the to of in on at for by as its be been being am i we you he she they me us him them my our your
    any their this that these those there or so very really just please then with from about into all some again truly quite one only""".split())
CUTS = set("and but however because although though if unless whether when while once until since nor neither without".split())
FINITE = AUXILIARY | set("i you we they he she it costs arrives comes please send put use follow add print let there take thank only hello".split())
OPENERS = AUXILIARY | set("what which who when where why how any".split())
REQUEST = {"tell", "need", "give", "share", "send", "please"}            # "Please give me your order number." asks without a "?"
INQUIRY = set("did have has had was were when why where".split())        # "Did you use the label?" asks about a step, it offers none
DECLARED = {"empathise", "apologise", "promise", "reassure"}             # done by saying so, never by a question or an "if"
FORWARD = {"apologise", "empathise", "promise", "greet", "close"}        # "sorry it did not come": a later "not" leaves these alone
TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)?|[^\W_]+|[.!?;:,()\n%…–—。！？]|(?<=\s)-(?=\s)")
PUNCT, FULL_STOPS = set(".!?;:,()\n…–—。！？-"), set(".!?;\n…。！？")
SUFFIX = re.compile(r"(?<=...)(ing|ed|es|ly|s|e|y)$")                    # crude: stems are only compared with stems

def _tokens(text: str) -> list[str]:
    """Lower-case words, numbers ("1,039" is one) and punctuation."""
    words = []
    for word in TOKEN.findall(text.lower().replace("’", "'").replace("cannot", "can not")):
        base, _, tail = word.partition("'")
        if tail == "t" and base.endswith("n"):
            words += [{"ca": "can", "wo": "will"}.get(base[:-1], base[:-1]), "not"]
        else:
            words += ["percent" if word == "%" else base, *{"ll": ["will"], "re": ["are"]}.get(tail, [])]     # 's, 'm, 've carry no act
    return words

@lru_cache(maxsize=4096)
def _index(phrases: tuple[tuple[str, str, str], ...]) -> dict[str, list]:
    """(phrase, replacement, slot) -> first token -> [(tokens, replacement, slots)], longest first: "not in stock" hides its "in stock".
    Equal phrases are one with several slots: "39 euros" may be price_1 and price_3."""
    table: dict[str, dict] = {}
    for phrase, put, slot in phrases:
        words = _tokens(" ".join(phrase.split())) or [""]                # an empty value fits no word
        table.setdefault(words[0], {}).setdefault(tuple(words), (words, put.split(), []))[2].extend([slot] * bool(slot))
    return {first: sorted(group.values(), key=lambda p: -len(p[0])) for first, group in table.items()}

def _fold(words: list[str], *indexes: dict[str, list]) -> tuple[list[str], dict[int, list]]:
    """Replace phrases, left to right.  Returns the new words and, by position in them, the slots of each value found."""
    out, found, i = [], {}, 0
    while i < len(words):
        old, new, slots = next((p for x in indexes for p in x.get(words[i], ()) if words[i:i + len(p[0])] == p[0]), ([0], [words[i]], 0))
        found |= {len(out): slots} if slots else {}
        out += new
        i += len(old)
    return out, found

def _clauses(words: list[str]) -> list[tuple[tuple[str, ...], int, bool, bool, bool]]:
    """(words, start, asked, condition, refused) per clause.  A fragment, a piece without a verb, shares the mood of the piece before:
    "I cannot offer a voucher, a discount" refuses both.  A "?" reaches back to pieces of its sentence that open like a question."""
    out, spans, start = [], [], 0                                        # spans: (start, end) of the pieces since the last full stop
    for i, word in enumerate(words + ["."]):
        if word in PUNCT or word in CUTS:
            spans += [(start, i)] * (i > start)
            start = i + (word in PUNCT)                                  # "but" opens its clause, a comma belongs to none
        if word in FULL_STOPS:
            asked = negated = False
            for n, (a, b) in enumerate(spans):
                piece = tuple(words[a:b])
                condition = piece[0] in ("if", "unless", "whether")      # "not sure if we ..." hands its "not" on
                fragment = n > 0 and piece[0] != "but" and (condition or FINITE.isdisjoint(piece))
                opens = n == len(spans) - 1 or piece[piece[0] in CUTS and b - a > 1] in OPENERS
                asked = word in "?？" and (opens or (fragment and asked))
                out.append((piece, a, asked, condition, fragment and negated))
                negated = out[-1][4] or (b - a > 1 and not NEGATORS.isdisjoint(piece))  # a bare "No," answers, it negates nothing
            spans = []
    return out

IDIOM_INDEX = _index(tuple((phrase, put, "") for phrase, put in IDIOMS.items()))
CONCEPT = {w: head.strip() for head, words in CONCEPTS.items() for w in f"{head} {words}".split()}
CONCEPT = {SUFFIX.sub("", w): head for w, head in CONCEPT.items()} | CONCEPT | dict.fromkeys(STOP | NEGATORS | CUTS | PUNCT, "")

def _features(words: list[str] | tuple[str, ...]) -> dict[str, int]:
    """Terms, and pairs of neighbouring terms, -> position of their first occurrence.  A word as listed in CONCEPT beats its stem."""
    terms = [(t, i) for i, w in enumerate(words) if (t := CONCEPT[w] if w in CONCEPT else CONCEPT.get(stem := SUFFIX.sub("", w), stem))]
    return dict(reversed(terms + [(s + " " + t, i) for (s, i), (t, _) in zip(terms, terms[1:])]))

def _train() -> tuple[list, dict[str, list]]:
    """Exemplars as (act, negated, features, weight), and the inverted index feature -> [(exemplar, weight of the feature)].
    Term: idf = log(1 + N / df) over N exemplars.  Pair: a quarter of the sum of its terms, so order helps and the words decide."""
    texts = [(act, _fold(_tokens(text), IDIOM_INDEX)[0]) for act, group in EXEMPLARS.items() for text in group.split("/")]
    bags = [(act, not NEGATORS.isdisjoint(words), _features(words).keys()) for act, words in texts]
    idf = {f: log(1 + len(bags) / sum(f in bag for _, _, bag in bags)) for _, _, bag in bags for f in bag}
    weight = {f: sum(idf[t] for t in f.split()) / 4 if " " in f else idf[f] for f in idf}
    postings = {f: [(e, weight[f]) for e, (_, _, bag) in enumerate(bags) if f in bag] for f in idf}
    return [(act, neg, bag, fsum(weight[f] for f in bag)) for act, neg, bag in bags], postings

MODEL, POSTINGS = _train()

@lru_cache(maxsize=1 << 14)
def _fired(words: tuple[str, ...], asked: bool, condition: bool, refused: bool) -> list[tuple[int, str]]:
    """(position of the first word that counted, act) of every act one clause performs.  Each act stands by its heaviest exemplar; one whose
    features all belong to another's is explained away: "sorry to hear" is no "sorry", "the order number is 4711" asks for none."""
    here, score = _features(words), {}
    for feature in here:
        for e, weight in POSTINGS.get(feature, ()):
            score[e] = score.get(e, 0.0) + weight
    first_not = next((i for i, word in enumerate(words) if word in NEGATORS), len(words))
    best: dict[str, tuple] = {}                                          # act -> (weight heard, position, features heard)
    for e, heard in score.items():
        act, wants_not, bag, total = MODEL[e]
        if heard >= THRESHOLD * total and heard > best.get(act, (0,))[0]:
            at = min(here[f] for f in bag if f in here)
            negated = first_not < at if act in FORWARD and not wants_not else refused or first_not < len(words)
            if negated == wants_not if act else all(f in here for f in bag if " " not in f):       # neutral ones: all terms, any mood
                best[act] = heard, at, bag & here.keys()
    unfit = set(DECLARED) if asked or condition else set()               # acts that the mood of the clause does not allow
    unfit |= {"ask_need", "ask_order"} if not asked and words[0] not in OPENERS and REQUEST.isdisjoint(words) else set()
    unfit |= {act for act in best if act[:6] in ("guide_", "offer_")} if asked and words[0] in INQUIRY else set()
    return [(at, act) for act, (_, at, mine) in best.items() if act and act not in unfit
            and not any(mine < other or (not a and mine <= other) for a, (_, _, other) in best.items())]

def hear(text: str, context: dict[str, str]) -> list[Act]:
    """The acts of one reply (any string) under B_t (slot -> value), in the order of the first word that counted.
    At most one act per kind and clause: two prices in one clause are one state_price with both candidates.
    >>> hear("It costs 39 euros, not 64 euros.", {"price_1": "39 euros", "price_2": "64 euros"})
    [Act(kind='state_price', candidates=frozenset({'1'}))]
    """
    values = tuple((value, "x" + slot.rpartition("_")[0], slot) for slot, value in context.items() if slot.rpartition("_")[0] in FACTS)
    words, found = _fold(_tokens(text), _index(values), IDIOM_INDEX)
    heard: list[tuple[int, str, frozenset[str]]] = []
    for piece, start, *mood in _clauses(words):
        fire = _fired if len(piece) <= 60 else _fired.__wrapped__        # endless clauses would only fill the cache
        heard += [(start + i, act, frozenset()) for i, act in fire(piece, *mood)]
        facts: dict[str, tuple[int, set[str]]] = {}                      # act -> (position of its first value, candidates)
        if found and not any(mood) and NEGATORS.isdisjoint(piece):       # a question, an "if" or a "not" states no fact
            for i, slot in ((i, slot) for i in range(start, start + len(piece)) for slot in found.get(i, ())):
                facts.setdefault(FACTS[slot.rpartition("_")[0]], (i, set()))[1].add(slot.rpartition("_")[2])
        heard += [(i, kind, frozenset(owners)) for kind, (i, owners) in facts.items()]
    acts = [Act(kind, owners) for _, kind, owners in sorted(heard, key=lambda h: h[0])]
    return [act for i, act in enumerate(acts) if i == 0 or act != acts[i - 1]]            # one act over two clauses is one act

if __name__ == "__main__":
    b_t = {"product_1": "Larch kettle", "price_1": "39 euros", "price_2": "39 euros", "eta_1": "on Friday", "eta_2": "on Monday"}
    for reply in ["Hello! What is your budget?", "The Larch kettle costs 39 euros. Shall I put it in the basket?", "No voucher, sorry.",
                  "I see how annoying this is, but don't worry: it arrives on Friday, not on Monday. We guarantee it! Anything else?"]:
        print(reply, *(f"    {act.kind:15} {' '.join(sorted(act.candidates))}" for act in hear(reply, b_t)), sep="\n")
