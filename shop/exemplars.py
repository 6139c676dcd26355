"""What the second ear knows of words: exemplars of each act, synonyms, idioms, word classes.

Tables only, used by second_ear.py and by nothing else: the first ear has its own."""

# Exemplars of each act, "/" between them, written as skeletons: small talk only dilutes.
# xwindow, xorder, ... stand for a value of that base.
# One with a negator ("do not hesitate") is heard only in negated clauses, others in affirmed ones.
EXEMPLARS = {
    "greet": """
        thank you for contacting us / thank for reaching out / thank you for contacting /
        hello / hi / hey / welcome / greetings / good morning / good afternoon / good evening /
        nice to meet you
    """,
    "ask_need": """
        what look for / have in mind / which product / what kind / what sort / what budget /
        have a budget / want to spend / how spend / which colour / what colour / which size /
        what size wear / which effect / tell size / tell colour / describe need /
        describe what after / name budget / which feature / what matters / what need /
        tell need / you prefer / what size / what use / which like / price range /
        up to which price / what able to do
    """,
    "ask_order": """
        order number / number of your order / which order / what order /
        the number on the confirmation
    """,
    "empathise": """
        understand how feel / understand upset / sorry to hear / be upset / i feel for you /
        how upset / real pity / not expected / why let down / you are let down
    """,
    "apologise": """
        sorry / sorry for the upset / sorry for the trouble / forgive us / excuse the delay /
        excuse the mistake
    """,
    "reassure": """
        no worry / fix / take care of it / take care of this / in good hands / everything fine /
        be assured / find a solution / stay calm / be assured nothing lost / relax /
        under control / put it right
    """,
    "guide_checkout": """
        put in the basket / add to your basket / place order / checkout / go to the basket /
        finish order / finish purchase / buy it now / tap buy / pay for it here /
        pay for it right / place in basket / lay in basket / order with one tap / order it now /
        order it online / click buy / order it here
    """,
    "guide_tracking": """
        follow the parcel / follow the order / track the parcel / track the order / track link /
        track page / track number / track map / send track code / see where parcel /
        see where order / track it here / follow it online
    """,
    "guide_return": """
        send it back / send back / return label / print the label / please return it /
        set up a return / return form / bring it back / prepaid label / put label on /
        stick label on / label in inbox / send a label / get a label / put this label
    """,
    "guide_refund": """
        release payment / release money / book payout / start payout / start transfer /
        pay money out / pay it out / confirm bank account / confirm account / transfer it /
        transfer money to account / transfer to account / have money sent / have sum paid /
        money sent to card
    """,
    "guide_exchange": """
        send a swap / set a swap / swap it / swap the item / swap kettle / swap way /
        get a swap / get a new one / send a new one / new one way / offer a swap /
        start the swap / swap will arrive / book a swap / prepare a swap
    """,
    "offer_voucher": """
        offer a voucher / tell you a voucher / here is a voucher / send a voucher /
        add a voucher / get a voucher / goodwill gesture / voucher for next order /
        percent off / euros off / use the voucher / accept voucher / like voucher /
        voucher for the trouble
    """,
    "upsell": """
        also like / also suggest / suggest too / also recommend / also need / goes well with /
        pairs well with / customers also buy / extra interest / extra also / add a second /
        how add / whynot add / like to add / also add / perfect addition / also interest you /
        suggest accessory / suggest a matching accessory / extra equipment /
        look at extra equipment / go nicely with / pair nicely / think of matching /
        thought about matching / recommend a matching / look at bundle / matching belt
    """,
    "close": """
        thank you / something more / what else do / anything else / something else /
        other question / further question / more questions / do not hesitate / have a nice day /
        have a nice evening / nice weekend / goodbye / bye
    """,
    "promise": """
        guarantee / promise / hundred percent / nomatter what / absolutely certain /
        whatever happens / tell you my word
    """,
    # Neutral clauses that share words with an act.  Heard in full, they explain away every exemplar
    # that they contain (see `_explained_away`).
    "": """
        send it back within xwindow / as thank you / track shows it / return it within xwindow /
        xwindow return it / get voucher already / have voucher already / year guarantee /
        guarantee period / guarantee covers / send back money / xorder order number /
        which order xorder / add swap filter / already sent it back
    """,
}
# One term for words that mean the same here; the exemplars are read through this table as well.
CONCEPTS = {
    "sorry": "apologise apologize apologies apology regret",
    "hello": "hallo",
    "goodwill": "gesture",
    "thank": "thanks",
    "get": "receive got",
    "buy": "purchase",
    "understand": "see know realise appreciate imagine hear recognise understandable",
    "nice": "great lovely good wonderful",
    "upset": (
        "disappointed disappointing disappointment irritating frustrated frustrating "
        "frustration annoyed annoying annoyance angry anger unhappy unpleasant "
        "inconvenience stressful upsetting concern"
    ),
    "worry": "worries worried",
    "fix": "sort sorted resolve resolved solve handle",
    "go": "goes",
    "fine": "okay ok alright",
    "basket": "cart bag trolley",
    "new": "fresh another",
    "parcel": "package shipment packet delivery",
    "voucher": "coupon discount credit code",
    "swap": "exchange exchanged replacement replace substitute",
    "send": "sent ship shipped mail post email",
    "track": "tracking",
    "item": "goods article",
    "tell": "give share provide",
    "product": "model",
    "set": "arrange organise",
    "matter": "important",
    "add": "include",
    "extra": "matching additional",
    "guarantee": "guaranteed",
    "promise": "promises",
    "certain": "sure",
    "finish": "complete",
    "question": "questions",
}
# Folded before anything else: harmless uses of a negator, hidden negators, fixed phrases.
IDIOMS = {
    "no problem": "",
    "no matter": "nomatter",
    "not only": "",
    "not just": "",
    "why not": "whynot",
    "no longer": "not",
    "no later than": "",
    "no extra": "free",
    "no cost": "free",
    "no charge": "free",
    "without delay": "",
    "not forget": "",
    "instead of": "without",
    "rather than": "without",
    "i wish": "not",
    "we wish": "not",
    "what a pity": "real pity",
    "you are welcome": "",
    "check out our": "look",
    "check out the": "look",
    "check out": "checkout",
    "gift card": "voucher",
    "credit card": "card",
    "100 percent": "hundred percent",
    "let me know": "tell",
    "thanks to": "",
    "have my word": "promise",
}
NEGATORS = set(
    "not no none never nothing neither nor without unable impossible refuse hardly nobody "
    "dont cant wont isnt doesnt didnt".split()
)
AUXILIARY = set(
    "is are was were do does did can could will would shall should may might has have had".split()
)
STOP = (AUXILIARY - {"will", "have"}) | set(
    "a an the to of in on at for by as its be been being am i we you he she they me us him them "
    "my our your any their this that these those there or so very really just please then with "
    "from about into all some again truly quite one only".split()
)
# words that open a clause
CUTS = set(
    "and but however because although though if unless whether when while once until since nor "
    "neither without".split()
)
# words without which a piece is a fragment: it has no verb of its own
FINITE = AUXILIARY | set(
    "i you we they he she it costs arrives comes please send put use follow add print let there "
    "take thank only hello".split()
)
OPENERS = AUXILIARY | set("what which who when where why how any".split())
# "Please give me your order number." asks without a "?"
REQUEST = {"tell", "need", "give", "share", "send", "please"}
# "Did you use the label?" asks about a step, it offers none
INQUIRY = set("did have has had was were when why where".split())
# done by saying it, never by a question or an "if"
DECLARED = {"empathise", "apologise", "promise", "reassure"}
# "sorry it did not come": a later "not" leaves these alone
FORWARD = {"apologise", "empathise", "promise", "greet", "close"}
CONDITIONS = ("if", "unless", "whether")
