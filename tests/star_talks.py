"""Small dialogues in the form of STAR's files, and a small chart, for the tests of STAR."""
BALANCE = {"APIName": "bank_balance", "BankBalance": 42, "BankName": "PNC", "id": 978}
# the chart of bank_balance
BANK = {
    "hello": "ask_name",
    "ask_name": "bank_ask_account_number",
    "bank_ask_account_number": "bank_ask_pin",
    "bank_ask_pin": "query",
    "info_missing": "bank_ask_dob",
    "bank_ask_dob": "bank_ask_mothers_maiden_name",
    "bank_ask_mothers_maiden_name": "bank_ask_childhood_pets_name",
    "info_missing2": "bank_inform_cannot_authenticate",
    "query_failure": "bank_inform_cannot_authenticate",
    "query_success": "bank_inform_balance",
    "bank_inform_balance": "anything_else",
    "bank_ask_childhood_pets_name": "query",
}
REPLIES = {
    "hello": "Hello, how can I help?",
    "ask_name": "Could I get your full name, please?",
    "bank_ask_pin": "Right, and your PIN as well please.",
    "bank_inform_balance": "Your current balance is {balance:d} in credit.",
    "goodbye_1": "Thank you\nand goodbye.",
}


# ---------------------------------------------------------------- events

def says(text):
    return {"Agent": "User", "Action": "utter", "Text": text}


def picks(label, text, item=None):
    event = {
        "Agent": "Wizard", "Action": "pick_suggestion", "ActionLabel": label, "Text": text}
    return _showing(event, item)


def types(text, item=None):
    return _showing({"Agent": "Wizard", "Action": "utter", "Text": text}, item)


def drafts(item=None):
    event = {"Agent": "Wizard", "Action": "request_suggestions", "Text": "the draft"}
    return _showing(event, item)


def _showing(event, item):
    return event | {"PrimaryItem": item} if item else event


def selects(task):
    return {"Agent": "Wizard", "Action": "select_task", "Task": task}


def asks(api, item, **constraints):
    """A query and its answer."""
    given = [{name: value} for name, value in constraints.items()]
    query = {"Agent": "Wizard", "Action": "query", "APIName": api, "Constraints": given}
    answer = {"Agent": "KnowledgeBase", "Action": "return_item", "APIName": api}
    if item:
        answer |= {"TotalItems": -1, "Item": item}
    else:
        answer |= {"TotalItems": 0}
    return [query, answer]


# ---------------------------------------------------------------- files

ANNOYED = "Did the user become aggressive or annoyed during the dialogue?"


def raw(*events, tasks=("bank_balance",), id=7, level="Complete"):
    """One file of dialogues/."""
    scenario = {
        "Happy": True,
        "MultiTask": len(tasks) > 1,
        "UserTask": "Ask.",
        "WizardCapabilities": [{"Task": task, "Domain": task[:4]} for task in tasks],
    }
    return {
        "DialogueID": id,
        "CompletionLevel": level,
        "Events": list(events),
        "Scenario": scenario,
        "UserQuestionnaire": [],
        "WizardQuestionnaire": [{"Question": ANNOYED, "Answer": True}],
    }


TALK = raw(
    says("Hi"),
    picks("hello", "Hello, how can I help?"),
    says("My  balance."),
    says("I am Jo, 123, pin 9"),
    *asks("bank_balance", None, FullName='"Jo"', PIN="8"),
    *asks("bank_balance", BALANCE, FullName='"Jo"', AccountNumber="api.is_at_least(3)", PIN="9"),
    drafts(BALANCE),
    picks("bank_inform_balance", "Your current balance is 42 in credit.", BALANCE),
    says("Nice"),
    types("It is, Jo!", BALANCE),
    says("Bye"),
    picks("custom", "Bye Jo", BALANCE),
    picks("goodbye_1", "Thank you and goodbye.", BALANCE),
    says("hello?"),
)


def is_reply(event):
    return event["Agent"] == "Wizard" and event["Action"] in ("utter", "pick_suggestion")
