"""The process judge of InteractCS-RL by rule: four principles for each reply, S in {0, .5, 1}.

The paper asks a generative reward model (GenRM) for S_{t,j} of its Eq. 6 (rewards.process_credit);
the principles are those of its release.  The rules here need no model.  They know the skills, B_t
and the transcript, and never the hidden type of the customer.  Acts are recognised by
`RuleJudge.acts`, and not by the customer's ear; what the customer said is read by fds_reading.py,
from sentences of the train split.  An LLM as judge is one more class with the same method.

persona   the opener fits the emotion in the message: the right one first, or none for a calm one
stage     the reply does what is due now: 1; and something that is not: .5; nothing that is due: 0
quality   shape of the reply; 0 for one that was said before; .5 for more than three acts
scenario  the store's rules: no second voucher, none before the cause is clear or where nothing was
          wrong, no refusal that nobody asked for, no farewell with a promise open

It stands in the shop because its rules speak of this store's acts and read its customers; it
imports the judge, and nothing of the judge's floor imports it.
Exercise: let `stage` give 1 to a reply that does nothing, and run `python -m shop.fds --bounds`."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data import Judged, Skill, fit_of
from judge import RuleJudge, quality
from shop.agenda import OPENER
from shop.catalogue import book
from shop.fds_catalogue import excuses
from shop.fds_reading import kinds_of

Marks = tuple[float, float, float, float]
MANY = 3                                         # acts; more are too much for one reply
VOUCHER_ACTS = {"propose_voucher", "issue_voucher"}
# sentences by which a customer refuses what a reply did; of comfort alone: "refuse.needless"
REFUSALS = {
    "refuse.unheard", "refuse.early", "refuse.step", "refuse.overload", "wrong.order", "wrong.fact",
    "lie"}
# act -> (what it does, sentences that accept it even where another act was refused)
DOES = {
    "confirm_order": ("matched", {"accept.order"}),
    "state_report": ("told", {"report.found", "report.nothing"}),
    "explain_cause": ("explained", {"accept.cause"}),
    "decline_refund": ("declined", {"take.decline"}),
    "pass_on": ("passed", {"accept.passed"}),
    "ask_wish": ("asked", {"told"}),
    "propose_voucher": ("proposed", {"agree.voucher", "refuse.voucher"}),
    "issue_voucher": ("issued", {"thanks.voucher"}),
}


@dataclass
class Seen:
    """What the transcript and B_t show before a reply."""
    emotion: str | None = None                   # of the last message, if it is upset
    wish: str | None = None                      # rigid, preference, incentive or feedback
    number: bool = False                         # B_t knows which order it is
    excused: bool = False                        # its delivery record excuses
    asked: bool = False                          # for the wish
    matched: bool = False
    told: bool = False
    photo: bool = False
    no_photo: bool = False
    explained: bool = False
    declined: bool = False
    passed: bool = False
    proposed: bool = False
    agreed: bool = False
    issued: bool = False

    @property
    def settled(self) -> bool:
        return self.told and (self.excused or self.photo or self.no_photo)

    @property
    def clear(self) -> bool:
        return self.explained or (self.settled and self.no_photo)

    @property
    def refund_open(self) -> bool:
        return self.wish in ("rigid", "preference") and not self.declined

    @property
    def voucher_open(self) -> bool:
        return self.agreed and not self.issued

    def due(self) -> set[str]:
        """The acts that bring the matter on now."""
        if not self.matched:
            return {"confirm_order" if self.number else "ask_details"}
        if not self.told:
            return {"state_report"}
        if not self.settled:
            return {"ask_photo"}
        if not self.clear:
            return {"explain_cause"}
        return self._to_settle() or {"close"}

    def _to_settle(self) -> set[str]:
        left = set()
        if self.wish is None and not self.asked:
            left.add("ask_wish")
        if self.refund_open:
            left.add("decline_refund")
        if not self.passed:
            left.add("pass_on")
        if self.voucher_open:
            left.add("issue_voucher")
        return left

    def harmless(self) -> set[str]:
        """Acts that are not due, and not out of place either."""
        if not self.clear or self.no_photo or self.proposed or self.issued:
            return set()
        return {"propose_voucher"}


class RuleGenRM:
    """Four marks for each reply, by rule."""
    name = "rule GenRM"

    def __init__(self, pool: dict[str, Skill]):
        self.judge = RuleJudge(pool)
        self.banned = [phrase.lower() for phrase in book("fds")["must_not_say"]]

    def score(self, items: Sequence[Judged]) -> list[Marks]:
        """S_{t,j} of each reply, in the order of rewards.PRINCIPLES."""
        return [self.marks(self.look(i), i.reply, i.previous) for i in items]

    def look(self, item: Judged) -> Seen:
        """What is to be seen before a reply."""
        seen = Seen()
        done: list[str | None] = []
        for user, reply in item.history:
            self._hear(seen, kinds_of(user), done)
            done = self.judge.acts(reply)
        said = kinds_of(item.user)
        self._hear(seen, said, done)
        seen.emotion = _upset(said)
        fitting = [s for s in item.context if s.startswith("order_") and fits(s, item.context)]
        seen.number = len(fitting) == 1
        if fitting:
            record = item.context[fitting[0].replace("order", "report")]
            seen.excused = excuses(record)
        return seen

    @staticmethod
    def _hear(seen: Seen, said: list[str], done: list[str | None]) -> None:
        """Takes in a message, and with it what the reply before it achieved."""
        kinds = set(said)
        refused = not REFUSALS.isdisjoint(kinds)
        for act in done:
            what, accepting = DOES.get(act, ("", set()))
            if what and not (refused and accepting.isdisjoint(kinds)):
                setattr(seen, what, True)
        seen.photo = seen.photo or "photo.given" in kinds
        if "ask_photo" in done and "photo.none" in kinds:
            seen.no_photo = True
        agreed = "propose_voucher" in done and "agree.voucher" in kinds
        seen.agreed = seen.agreed or agreed or "remind.voucher" in kinds
        for kind in said:
            if kind.startswith("wish."):
                seen.wish = kind.removeprefix("wish.")

    def marks(self, seen: Seen, reply: str, previous: Sequence[str] = ()) -> Marks:
        acts = [act or "" for act in self.judge.acts(reply)]
        business = [act for act in acts if act not in OPENER.values()]
        return (
            self._persona(seen, acts),
            self._stage(seen, acts, business),
            self._quality(reply, acts, previous),
            self._scenario(seen, reply, business),
        )

    @staticmethod
    def _persona(seen: Seen, acts: list[str]) -> float:
        wanted = OPENER.get(seen.emotion or "")
        openers = [act for act in acts if act in OPENER.values()]
        if wanted is None:
            return 0.0 if openers else 1.0
        if acts[:1] == [wanted]:
            return 1.0 if len(openers) == 1 else 0.5
        return 0.5 if wanted in openers else 0.0

    def _stage(self, seen: Seen, acts: list[str], business: list[str]) -> float:
        if seen.emotion and self._persona(seen, acts) == 0:
            # an upset customer is deaf for business
            return 0.0
        due = seen.due()
        if due.isdisjoint(business):
            return 0.0
        allowed = due | seen.harmless()
        if due <= set(business) and "propose_voucher" not in business:
            # with the last of it done the talk may end
            allowed |= {"close"} if seen.clear else set()
        twice = len(business) > len(set(business))
        return 0.5 if twice or set(business) - allowed else 1.0

    @staticmethod
    def _quality(reply: str, acts: list[str], previous: Sequence[str]) -> float:
        if reply in previous or not acts:
            return 0.0
        shape = quality(reply)
        if shape < 0.75:
            return 0.0
        return 1.0 if shape >= 0.9 and len(acts) <= MANY else 0.5

    def _scenario(self, seen: Seen, reply: str, business: list[str]) -> float:
        lowered = reply.lower()
        if any(phrase in lowered for phrase in self.banned):
            return 0.0
        if self._breaks_a_rule(seen, set(business)):
            return 0.0
        if not business:
            return 0.5
        unasked = "issue_voucher" in business and not seen.agreed
        return 0.5 if unasked else 1.0

    @staticmethod
    def _breaks_a_rule(seen: Seen, acts: set[str]) -> bool:
        if acts & VOUCHER_ACTS and (not seen.clear or seen.no_photo or seen.issued):
            return True
        if "decline_refund" in acts and not seen.refund_open:
            return True
        if "close" not in acts:
            return False
        left = seen.refund_open and "decline_refund" not in acts
        owed = seen.voucher_open and "issue_voucher" not in acts
        return left or owed or not seen.clear or "propose_voucher" in acts


def fits(slot: str, context: dict[str, str]) -> bool:
    return fit_of(slot, context) in (None, "yes")


def _upset(said: list[str]) -> str | None:
    """The upset emotion of a message, which is said first if at all."""
    emotion = said[0].removeprefix("mark.") if said else ""
    return emotion if emotion in OPENER else None
