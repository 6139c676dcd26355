"""How a customer of the simulated shops takes what a reply does, and what it costs: one table.

`Reaction` is what the customer answers to.  `Event` is what the customer only feels.
EFFECTS gives the change of patience and of mood for both.  All numbers are ours (GAP-9).

This file knows no shop and draws nothing at random; customer.py decides which reaction occurs when.

Exercise: set the effects of REFUSE_UNHEARD to zero and run `python -m shop.mgshop --bounds` again:
how far does "shuffled emotions" rise?"""
from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Reaction(StrEnum):
    """What the customer makes of one act.

    From TOLD on, a value is the key of the customer's phrase in the book.  The cost is in EFFECTS.
    """
    NONE = ""                                    # takes the act as words, nothing follows
    GOOD = "good"                                # is one step closer to what they want
    DETAILS = "details"                          # was asked for missing details, and gives them
    TOLD = "told"                                # was asked needlessly: says the details once more
    HESITATE = "hesitate"                        # wants an incentive before accepting the guidance
    WRONG_PRODUCT = "wrong.product"              # rejects the product: it is not what was asked for
    WRONG_ORDER = "wrong.order"                  # rejects the order: it is somebody else's
    WRONG_FACT = "wrong.fact"                    # rejects a fact that belongs to another item
    REFUSE_UNHEARD = "refuse.unheard"            # is upset, not yet comforted: deaf for business
    REFUSE_EARLY = "refuse.early"                # is not ready for this: returns to the open point
    REFUSE_NEEDLESS = "refuse.needless"          # was comforted although calm
    REFUSE_OVERLOAD = "refuse.overload"          # stops reading: more acts than attention
    REFUSE_STEP = "refuse.step"                  # is guided to a way out that they do not accept


WRONG_NAME = (Reaction.WRONG_PRODUCT, Reaction.WRONG_ORDER)


class Event(StrEnum):
    """What changes patience or mood although the customer's answer does not speak of it."""
    GREETED_LATE = "greeted late"                # greeted after the first turn, or while upset
    CLOSED_EARLY = "closed early"                # shown the door before the matter is settled
    COMFORTED = "comforted"                      # the right opening words for the emotion
    WRONG_COMFORT = "wrong comfort"              # upset, and given the wrong words, or too late
    UNASKED_FACT = "unasked fact"                # a fact about the right item that nobody asked for
    DISTRACTED = "distracted"                    # an upsell or a promise while the matter is open
    VOUCHER = "voucher"                          # a voucher, whether or not one was waited for
    TOO_LONG = "too long"                        # a reply of more than LONG words
    REPEATED_ACT = "repeated act"                # once for each act said again within a reply
    REPEATED_REPLY = "repeated reply"            # word for word an earlier reply
    PROGRESS = "progress"                        # at least one act of the reply was GOOD
    STANDSTILL = "standstill"                    # no act of the reply was GOOD


class Effect(NamedTuple):
    """Change of patience (starts in [3, 5], at 0 the customer leaves) and of mood (in [0, 1])."""
    patience: float
    mood: float


EFFECTS = {
    # answered                        patience  mood
    Reaction.NONE:              Effect(0.0,    0.0),
    Reaction.GOOD:              Effect(0.0,    0.0),
    Reaction.DETAILS:           Effect(0.0,    0.0),
    Reaction.TOLD:              Effect(-0.5,   0.0),
    Reaction.HESITATE:          Effect(-0.5,   0.0),
    Reaction.WRONG_PRODUCT:     Effect(-1.0,  -0.15),
    Reaction.WRONG_ORDER:       Effect(-1.0,  -0.15),
    Reaction.WRONG_FACT:        Effect(-1.0,  -0.15),
    Reaction.REFUSE_UNHEARD:    Effect(-1.0,  -0.2),
    Reaction.REFUSE_EARLY:      Effect(-0.75,  0.0),
    Reaction.REFUSE_NEEDLESS:   Effect(-0.75,  0.0),
    Reaction.REFUSE_OVERLOAD:   Effect(-1.0,   0.0),
    Reaction.REFUSE_STEP:       Effect(-1.0,   0.0),
    # only felt                       patience  mood
    Event.GREETED_LATE:         Effect(-0.25,  0.0),
    Event.CLOSED_EARLY:         Effect(-0.5,   0.0),
    Event.COMFORTED:            Effect(0.0,    0.15),
    Event.WRONG_COMFORT:        Effect(-0.75,  0.0),
    Event.UNASKED_FACT:         Effect(-0.25,  0.0),
    Event.DISTRACTED:           Effect(-0.5,   0.0),
    Event.VOUCHER:              Effect(0.0,    0.2),
    Event.TOO_LONG:             Effect(-0.5,   0.0),
    Event.REPEATED_ACT:         Effect(-0.5,   0.0),
    Event.REPEATED_REPLY:       Effect(-0.5,   0.0),
    Event.PROGRESS:             Effect(0.0,    0.05),
    Event.STANDSTILL:           Effect(-1.0,  -0.1),
}
WORST = 1.5                                      # patience that one bad reply can cost, however bad
LONG = 60                                        # words; a longer reply is TOO_LONG
