"""Tests of python -m hosted.label: what it writes and refuses; no network but 127.0.0.1."""
import json
import subprocess
import sys

import pytest

import data
from data import DataError, Turn
from hosted import label
from hosted.label_file import Output, Survey, survey
from hosted.labellers import KINDS, Choices, RuleLabeller
from tests.label_logs import POOL, PRICE, SKILLS, SORRY, desk, dialogue, good, logs, rows_of


@pytest.fixture
def server(tmp_path):
    with desk(tmp_path) as served:
        yield served


def run(*argv):
    return label.main([str(word) for word in argv])


def refused(capsys, *argv):
    """The error that a command ends with."""
    assert run(*argv) == 2
    # one line, after the progress bar
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("label.py: ")
    return error


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- by rules

def test_rules_end_to_end(tmp_path, capsys):
    offer = {
        "reply": f"{SORRY} {PRICE}",
        "context": {"price": "30 euros"},
        "extra": {"kept": [1.5]},
    }
    rows = [
        {"more": 1} | dialogue("a", offer, {"reply": "Hm."}, {}),
        dialogue("b", {"reply": SORRY, "skills": ["close"], "intent": "buy"}),
        dialogue("ü", {"reply": PRICE, "skills": []}),
        dialogue("d", {"skills": None, "emotion": ""}),
    ]
    path = logs(tmp_path, rows)
    assert run(path) == 0
    said = capsys.readouterr().out
    out = tmp_path / "logs.labelled.jsonl"
    labelled = rows_of(out)
    skills = []
    for row in labelled:
        skills.append([turn["skills"] for turn in row["turns"]])
    assert skills == [[["sorry", "price"], None, None], [["close"]], [[]], [None]]
    assert labelled[0]["more"] == 1
    assert labelled[0]["turns"][0]["extra"] == {"kept": [1.5]}
    assert labelled[1]["turns"][0] == rows[1]["turns"][0]
    for line in (
        "rule labeller (must_say and examples; not an LLM)",
        "6 turns: 2 had it, 1 labelled now, 3 null (2 have no reply)",
        "intent   6 turns: 1 had it, 0 labelled now, 5 null  "
        "(not asked for: rules label skills only)",
        "skills   2 of 2 labelled: exact 0.000, F1 0.000",
        f"next: python train.py --dataset {out}",
    ):
        assert line in said
    # the input is what it was
    assert rows_of(path) == rows
    # and train.py can read what came of it
    loaded = data.load(str(out))
    assert list(loaded.skills) == list(SKILLS)
    assert loaded.skills["close"].must_say == ("Terms apply.",)


def test_rules_without_anything_to_go_by(tmp_path, capsys):
    pool = [{"id": "sorry", "description": "say sorry"}]
    path = logs(tmp_path, [dialogue("a", {"reply": SORRY})], pool)
    assert "examples or must_say" in refused(capsys, path)
    assert not (tmp_path / "logs.labelled.jsonl").exists()


def test_the_pool_of_a_dataset(tmp_path, capsys):
    shop = data.load("mgshop")
    turns = []
    for turn in shop.test[0].turns:
        turns.append({
            "user": turn.user,
            "context": turn.context,
            "reply": data.fill(turn.reply, turn.context),
            "skills": list(turn.skills),
        })
    path = logs(tmp_path, [{"id": "a", "turns": turns}], None)
    assert run(path, "--skills", "mgshop") == 0
    # phrase-book replies are its examples
    assert "exact 1.000, F1 1.000, ESNDCG 1.000" in capsys.readouterr().out
    pool = json.loads((tmp_path / "logs.labelled.skills.json").read_text())
    assert len(pool) == len(shop.skills)


# ---------------------------------------------------------------- by a server

def test_a_server_labels_what_is_missing_and_checks_what_is_there(tmp_path, server, capsys):
    known = {"reply": PRICE, "skills": ["sorry", "price"], "intent": "return", "emotion": "angry"}
    rows = [dialogue("a", {"reply": PRICE}, known), dialogue("b", {"intent": "buy"})]

    def say(prompt):
        return "no idea" if "b asks" in prompt[1]["content"] else good(prompt)

    server.say = staticmethod(say)
    assert run(logs(tmp_path, rows), *server.flags) == 0
    said = capsys.readouterr().out
    first, second = rows_of(tmp_path / "logs.labelled.jsonl")
    filled = {"skills": ["price"], "intent": "buy", "emotion": "angry"}
    # what is there is never overwritten
    assert first["turns"] == [rows[0]["turns"][0] | filled, rows[0]["turns"][1]]
    assert second["turns"] == [rows[1]["turns"][0] | {"skills": None, "emotion": None}]
    for line in (
        "skills   3 turns: 1 had it, 1 labelled now, 1 null (1 have no reply)",
        "emotion  3 turns: 1 had it, 1 labelled now, 1 null",
        # [price] against [sorry, price]: 1 / (3 + 1 / log2 3)
        "skills   1 of 1 labelled: exact 0.000, F1 0.667, ESNDCG 0.275",
        "intent   1 of 2 labelled: accuracy 0.000",
        "emotion  1 of 1 labelled: accuracy 1.000",
        "requests sent",
    ):
        assert line in said


# ---------------------------------------------------------------- label sets

def pick(base, **flags):
    found = Survey(2, {"b", "a"}, set(), [])
    return label.choices(label.LabelConfig(**flags), base, found)


def test_label_sets():
    pool = Choices(SKILLS)
    seen = pick(pool)
    assert (seen.intents, seen.emotions) == (("a", "b"), label.EMOTIONS)
    assert pick(pool, intents="x, y", emotions="z") == Choices(SKILLS, ("x", "y"), ("z",))
    of_dataset = Choices(SKILLS, ("buy", "return"), ("calm", "angry"))
    assert pick(of_dataset) == of_dataset
    with pytest.raises(DataError, match="--intents"):
        pick(pool, intents="x,,y")


# ---------------------------------------------------------------- refusals

def test_it_never_mixes_two_labellings(tmp_path, capsys, server):
    rows = [dialogue("a", {"reply": SORRY}), dialogue("b", {"reply": SORRY})]
    path = logs(tmp_path, rows)
    out = tmp_path / "logs.labelled.jsonl"
    assert run(path) == 0
    whole = out.read_bytes()
    assert "labeller" in refused(capsys, path, *server.flags)
    logs(tmp_path, [rows[0], dialogue("b", {"reply": PRICE})])
    assert "another input" in refused(capsys, path)
    logs(tmp_path, rows, POOL[:3])
    assert "another skill pool" in refused(capsys, path)
    logs(tmp_path, rows)
    assert out.read_bytes() == whole
    assert run(path) == 0


def test_an_output_of_other_dialogues_is_refused(tmp_path, capsys):
    path = logs(tmp_path, [dialogue("a", {"reply": SORRY}), dialogue("b", {"reply": SORRY})])
    out = tmp_path / "logs.labelled.jsonl"
    assert run(path) == 0
    out.write_bytes(out.read_bytes().replace(b"b asks", b"x asks"))
    wrong = "logs.labelled.jsonl, line 2: not the dialogue of"
    assert wrong in refused(capsys, path)
    out.write_bytes(b'[1, "x"]\n')
    assert "line 1: not the dialogue of" in refused(capsys, path)
    (tmp_path / "logs.labelled.meta.json").unlink()
    assert "is not of this labelling" in refused(capsys, path)
    assert out.read_bytes() == b'[1, "x"]\n'


def test_two_processes_do_not_share_an_output(tmp_path, capsys):
    path = logs(tmp_path, [dialogue("a", {"reply": SORRY})])
    assert run(path) == 0
    with Output(tmp_path / "logs.labelled.jsonl").open():
        assert "another process" in refused(capsys, path)


def test_bad_logs_are_named_before_anything_is_asked(tmp_path, capsys, server):
    one = dialogue("a", {"reply": SORRY})
    assert "logs.skills.json next to it" in refused(capsys, logs(tmp_path, [one], None))
    path = logs(tmp_path, [one, one])
    assert "line 2, field id" in refused(capsys, path)
    logs(tmp_path, [one, dialogue("b", {"reply": SORRY, "skills": ["magic"]})])
    wrong = "line 2, field turns[0].skills: 'magic'"
    assert wrong in refused(capsys, path, *server.flags)
    assert server.asked == []
    path.write_text('{"id": "a", "turns": [{"user": 5}]}\n')
    assert "line 1, field turns[0].user" in refused(capsys, path)
    path.write_text("\n")
    assert "no dialogue" in refused(capsys, path)
    assert "no such file" in refused(capsys, tmp_path / "none.jsonl")
    # a refusal leaves nothing behind
    assert names_in(tmp_path) == ["logs.jsonl", "logs.skills.json"]


@pytest.mark.parametrize(("flags", "said"), [
    (["--skills", "nothing"], "--skills nothing"),
    (["--skills", "no.skills.json"], "no such file"),
    (["--output", "x.txt"], "--output"),
    (["--output", "FOLDER/logs.jsonl"], "never overwritten"),
    (["--output", "FOLDER/no/x.jsonl"], "no such folder"),
    (["--model", "gpt"], "--api_base"),
    (["--api_base", "http://127.0.0.1:1/v1"], "name the model"),
])
def test_bad_flags_are_refused_and_leave_nothing(flags, said, tmp_path, capsys):
    path = logs(tmp_path, [dialogue("a", {"reply": SORRY})])
    words = [word.replace("FOLDER", str(tmp_path)) for word in flags]
    assert said in refused(capsys, path, *words)
    assert names_in(tmp_path) == ["logs.jsonl", "logs.skills.json"]


@pytest.mark.parametrize("flags", [
    ["--chekc", "3"], ["--check", "-1"], ["--limit", "0"], ["--check", "x"],
])
def test_typos_are_no_flags(flags, tmp_path):
    path = logs(tmp_path, [dialogue("a", {})])
    with pytest.raises(SystemExit):
        run(path, *flags)


# ---------------------------------------------------------------- agreement

def test_agreement_by_hand():
    pairs = [
        # exact
        ({"skills": ("a", "b"), "intent": "x"}, Turn("u", "x", None, {}, ("a", "b"), "r")),
        # F1 2/3; ESNDCG 1 / (3 + 1 / log2 3) = .2754
        ({"skills": ("b",), "intent": "y"}, Turn("u", "x", "calm", {}, ("a", "b"), "r")),
        # failed: counted, not 0
        ({}, Turn("u", None, None, {}, ("a",), "r")),
        # no reply: nothing to compare
        ({"intent": "x"}, Turn("u", None, None, {}, ("a",), None)),
    ]
    assert label.agreement(pairs, KINDS) == {
        "n_skills": 2,
        "of_skills": 3,
        "exact": .5,
        "f1": pytest.approx(5 / 6),
        "esndcg": pytest.approx((1 + .2754) / 2, abs=1e-4),
        "n_intent": 2,
        "of_intent": 2,
        "accuracy_intent": .5,
        "n_emotion": 0,
        "of_emotion": 1,
        "accuracy_emotion": None,
    }


class Spy:
    """The rule labeller, and what it was asked for."""
    kinds = ("skills",)

    def __init__(self):
        self.rules = RuleLabeller(Choices(SKILLS))
        self.asked = []

    def label(self, windows):
        self.asked.append([(window.turns[0].user, window.wanted) for window in windows])
        return self.rules.label(windows)


def test_the_sample_is_the_same_every_time_and_no_larger_than_asked(tmp_path):
    turn = {"reply": SORRY, "skills": ["sorry"]}
    path = logs(tmp_path, [dialogue(str(i), turn, turn) for i in range(20)])
    found = survey(path, None, SKILLS)
    spy = Spy()
    for _ in range(2):
        assert label.check(path, spy, found, 7) == {
            "n_skills": 7, "of_skills": 7, "exact": 1, "f1": 1, "esndcg": 1}
    first, second = spy.asked
    assert first == second
    assert sum(len(wanted) for _, wanted in first) == 7


def test_labels_that_rules_do_not_give_are_not_compared(tmp_path, capsys):
    row = dialogue("a", {"reply": SORRY, "intent": "buy"}, {"skills": ["sorry"]})
    assert run(logs(tmp_path, [row])) == 0
    assert "agreement: — (no turn had labels to compare with)" in capsys.readouterr().out


def test_the_file_is_a_command():
    command = [sys.executable, "-m", "hosted.label", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("python -m hosted.label", "--api_base", "--skills"):
        assert word in done.stdout
