"""MultiWOZ's rows by hand: tallies of dialogues, their intervals, retrieval, and runs compared."""
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sacrebleu import corpus_bleu

import data
import eval as evaluation
import train
from baselines.sft import SFT
from corpora import multiwoz, woz_rows
from corpora.nearest import Nearest, features
from corpora.woz_rows import PEOPLE, STUFFING, compared, read_saved
from corpora.woz_score import gold, score
from corpora.woz_tally import (
    bleu_of,
    bracketed,
    combined_interval,
    differences,
    measures,
    tally,
    verdict,
)
from data import DataError, Dialogue, Episode, Turn
from infra.runs import read_config
from policies import Silence
from start.base import check_base
from start.flags import parse_flags
from start.of_dataset import OwnMeasures, own_measures
from start.resolve import with_slots
from systems.more_config import MoreConfig
from systems.more_train import MORE
from tests.test_woz_score import Tables, raw_dialogue

KNOWN = gold({f"SNG{i}.json": raw_dialogue() for i in range(1, 5)})
IDS = tuple(KNOWN.goals)
GOOD = ["hello!", "the {name}, phone {phone}, your {ref}."]
POOR = ["hello!", "which price?"]


def row_of(*replies):
    """A tally in which dialogue i says replies[i]."""
    return tally(dict(zip(IDS, replies)), KNOWN, Tables())


def told(inform, success, bleu=(4, 4, 4, 3, 2, 1, 4, 3, 2, 1)):
    """Numbers of one dialogue; BLEU 100 by itself."""
    return {"inform": inform, "success": success, "bleu": list(bleu), "replies": ["a b c d"]}


# --- tallies -------------------------------------------------------------------------------------

@pytest.mark.parametrize("ours, theirs", [
    ("{total} at {before}, {time}", "[price] at [arrive], [duration]"),
    ("{ref} {trainid} [name]", "[reference] [trainid] [name]"),
    ("{leave} or {after}", "[leave] or [leave]"),
    ("no slot {", "no slot {")])
def test_slots_have_the_names_of_the_annotation(ours, theirs):
    assert bracketed(ours) == theirs


def test_a_tally_by_hand():
    row = row_of(GOOD, POOR)
    assert (row["sng1"]["inform"], row["sng1"]["success"]) == (1, 1)
    # nothing was offered
    assert (row["sng2"]["inform"], row["sng2"]["success"]) == (0, 0)
    assert row["sng1"]["replies"] == ["hello!", "the [name], phone [phone], your [reference]."]
    # "the [ name ] , phone [ phone ] ." and "hello !" have 12 words; of ours one has 5 more
    assert row["sng1"]["bleu"][:2] == [17, 12]
    assert row["sng2"]["bleu"][:2] == [5, 12]
    found = measures(row)
    assert (found["inform"], found["success"]) == (50, 50)
    assert found["combined"] == pytest.approx(found["bleu"] + 50)
    assert found["slots"] == 3 / 4                # name, phone and reference in four replies
    assert found["words"] == 8                   # hello the name phone your reference which price


def test_a_tally_says_what_the_score_says():
    replies = [GOOD, POOR, POOR, ["hi", "[phone] [name]"]]
    said = {}
    for id, texts in zip(IDS, replies):
        said[id] = [{"response": bracketed(text)} for text in texts]
    wanted = score(said, KNOWN.goals, KNOWN.states, KNOWN.booked, Tables(), KNOWN.references)
    found = measures(row_of(*replies))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


def test_bleu_of_counts_is_that_of_sacrebleu():
    row = row_of(GOOD, POOR)
    replies = row["sng1"]["replies"] + row["sng2"]["replies"]
    wanted = corpus_bleu(replies, [KNOWN.references["sng1"] * 2]).score
    sums = np.sum([row[id]["bleu"] for id in row], 0)
    assert 0 < wanted < 100
    assert bleu_of(sums) == pytest.approx(wanted)


def test_unfit_replies_are_refused():
    with pytest.raises(DataError, match="sng1 has 1 turns, the corpus 2"):
        row_of(["hello"])
    with pytest.raises(DataError, match="unknown dialogue 'sng9'"):
        tally({"sng9": POOR}, KNOWN, Tables())


# --- intervals -----------------------------------------------------------------------------------

def test_the_interval_of_combined():
    same = {id: told(1, 0) for id in IDS}
    assert combined_interval(same) == pytest.approx({"mean": 150, "low": 150, "high": 150})
    half = {f"d{i}": told(i % 2, i % 2) for i in range(100)}
    found = combined_interval(half)
    # 100 + (50 +- 1.96 * 5) in each of both, which go together
    assert found["mean"] == pytest.approx(150)
    assert found["low"] == pytest.approx(140.2, abs=1.5)
    assert found["high"] == pytest.approx(159.8, abs=1.5)
    assert combined_interval(half, seed=1) != found
    one = combined_interval({"d0": told(1, 1)})
    assert one == {"mean": pytest.approx(200), "low": None, "high": None}


def test_a_difference_is_paired():
    # dialogues differ much, and ours is better by the same in each
    theirs = {f"d{i}": told(i % 2, 0) for i in range(40)}
    ours = {id: one | {"success": 1} for id, one in theirs.items()}
    found = differences(ours, theirs)
    assert found["success"] == pytest.approx({"mean": 100, "low": 100, "high": 100})
    assert found["inform"] == pytest.approx({"mean": 0, "low": 0, "high": 0})
    assert found["combined"] == pytest.approx({"mean": 50, "low": 50, "high": 50})
    assert [verdict(found[name]) for name in ("success", "inform")] == ["above", "undecided"]
    assert verdict(differences(theirs, ours)["combined"]) == "below"


def test_what_chance_may_have_done_is_undecided():
    theirs = {f"d{i}": told(i % 2, 0) for i in range(40)}
    ours = theirs | {"d0": told(1, 0)}
    found = differences(ours, theirs)["inform"]
    assert found["mean"] == pytest.approx(2.5)
    assert found["low"] == 0
    assert verdict(found) == "undecided"


def test_only_common_dialogues_are_compared():
    ours = {"a": told(1, 1), "b": told(0, 0)}
    found = differences(ours, {"b": told(1, 1)})
    assert found["inform"] == {"mean": -100, "low": None, "high": None}
    assert verdict(found["inform"]) == "undecided"
    with pytest.raises(DataError, match="no dialogue was measured of both"):
        differences(ours, {"c": told(1, 1)})


# --- retrieval -----------------------------------------------------------------------------------

LOGGED = [
    Turn("I want a cheap hotel", None, None, {"_domain": "hotel"}, (), "Which area?"),
    Turn("I want a train", None, None, {"_domain": "train", "leave": "9:00"}, (), "At {leave}."),
    Turn("I want a train", None, None, {"_domain": "train"}, (), "Where to?"),
    Turn("thanks a lot", None, None, {}, (), None),
    Turn("thank you", None, None, {}, (), "Bye!")]


@pytest.mark.parametrize("user, context, reply", [
    ("a hotel please", {}, "Which area?"),
    ("a train", {"_domain": "train", "leave": "17:15"}, "At {leave}."),
    # what is offered without a value is not known
    ("a train", {"_domain": "train", "leave": "?"}, "Where to?"),
    # only "a" is shared, for the thanks have no reply: the shorter of the turns that have it
    ("thanks a lot", {}, "Where to?"),
    ("zzz", {}, "Which area?")])                 # nothing in common: the first
def test_the_nearest_turn_by_hand(user, context, reply):
    assert Nearest(LOGGED).reply(Turn(user, context=context)) == reply


def test_rare_words_weigh_more_and_length_does_not():
    # idf 1.1 and 2.7: two common words of three, 1.3, against a rare one of two, 1.9
    often = [Turn("i want it", reply=f"{i}") for i in range(9)]
    nearest = Nearest([*often, Turn("guesthouse now", reply="rare")])
    assert nearest.reply(Turn("i want guesthouse")) == "rare"
    assert Nearest([Turn("x y", reply="long"), Turn("x", reply="short")]).reply(
        Turn("x x x")) == "short"


def test_retrieval_needs_a_reply():
    with pytest.raises(ValueError, match="no turn has a reply"):
        Nearest([Turn("hello")])
    assert features(Turn("Two", context={"_known": "area day"})) == {
        "two": 1, "=_known area": 1, "=_known day": 1}


# --- rows that need no training ------------------------------------------------------------------

def two_turns(*replies):
    return (Turn("hello", reply=replies[0]), Turn("italian", reply=replies[1]))


def test_rows_that_need_no_training(monkeypatch):
    said = {"every": GOOD, "known": ["hello!", "the golden wok, phone {phone}."]}

    def load(folder, slots="known"):
        logged = Dialogue("a", (Turn("italian please", reply="{name}, {phone}, {ref}!"), *LOGGED))
        return SimpleNamespace(
            train=[logged], test=[Dialogue("SNG1.json", two_turns(*said[slots]))])

    monkeypatch.setattr(woz_rows, "load", load)
    monkeypatch.setattr(woz_rows, "test_of", lambda folder: woz_rows.Test(KNOWN, Tables()))
    verdicts = {}
    for name, row in woz_rows.untrained_rows("here").items():
        verdicts[name] = row["sng1"]["inform"], row["sng1"]["success"]
    assert verdicts == {
        PEOPLE: (1, 0), STUFFING: (1, 1),        # the references hold no reference number
        "people, --woz_slots every": (1, 1),
        "people, --woz_slots known": (0, 0),     # a name in words offers nothing
        "one sentence": (0, 0), "retrieval": (1, 1)}


# --- what is printed -----------------------------------------------------------------------------

def test_the_table_says_what_its_rows_are():
    test = woz_rows.Test(KNOWN, Tables())
    rows = woz_rows.simple_rows(test, IDS[:2]) | {"more": row_of(GOOD, POOR)}
    lines = woz_rows.table(rows, "899 dialogues of the validation split").splitlines()
    assert lines[0].endswith(
        "policy level, gold state, trained on 899 dialogues of the validation split; "
        "2 test dialogues")
    by_name = {line[:26].strip(): line[26:].split() for line in lines[1:6]}
    # people gave no reference, and against themselves they have no BLEU
    assert by_name[PEOPLE][:4] == ["100.0", "0.0", "—", "—"]
    assert by_name[STUFFING][:2] == ["100.0", "100.0"]
    more = measures(rows["more"])
    assert by_name["more"][:4] == [
        "50.0", "50.0", f"{more['bleu']:.1f}", f"{more['combined']:.1f}"]
    assert by_name["more"][4].startswith("[")
    assert by_name["HDNO, published"][:4] == ["93.3", "83.4", "17.8", "106.1"]
    assert "for orientation" in lines[-2]
    assert "no reward" in lines[-4]
    assert lines[1].split()[-1] == "slots"
    assert by_name[STUFFING][-1] == "6.0"


# --- runs compared -------------------------------------------------------------------------------

def write_run(folder, row, trained_on="899 dialogues", name="more", **others):
    folder.mkdir()
    kept = {"row": name, "trained_on": trained_on, "rows": {name: row} | others}
    (folder / woz_rows.FILE).write_text(json.dumps(kept))
    return folder


def test_two_runs_are_compared(tmp_path):
    theirs = {f"d{i}": told(i % 2, 0) for i in range(40)}
    ours = {id: one | {"inform": 1, "success": 1} for id, one in theirs.items()}
    more = write_run(tmp_path / "more", ours, warm_start=theirs)
    sft = write_run(tmp_path / "sft", theirs, name="sft")
    said = compared([more, sft])
    assert f"more of {more} - sft of {sft}" in said
    assert "success   +100.0 [+100.0, +100.0]  above" in " ".join(said.split(" " * 4))
    assert "over 40 dialogues" in said
    assert "not trained on the same" not in said
    # the warm start is what sft ended with
    said = compared([more, more / woz_rows.FILE], "warm_start")
    assert said.count("undecided") == 4


def test_another_split_is_said(tmp_path):
    runs = [write_run(tmp_path / name, {"d": told(1, 1)}, name) for name in ("one", "other")]
    assert "not trained on the same dialogues" in compared(runs)


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    run = write_run(tmp_path / "run", {"d": told(1, 1)})
    with pytest.raises(DataError, match="name two run directories"):
        compared([run])
    with pytest.raises(DataError, match=r"--row sft: .*run has more"):
        compared([run, run], "sft")
    with pytest.raises(DataError, match=r"woz\.json not found; train\.py --dataset multiwoz"):
        compared([run, tmp_path])


@pytest.mark.parametrize("text, reason", [
    ("{", "cannot be read"), ("[]", "cannot be read"), ('{"row": "a"}', "'trained_on'"),
    ('{"row": "a", "trained_on": "", "rows": {}}', "has no row 'a'")])
def test_unreadable_runs_are_refused(tmp_path, text, reason):
    (tmp_path / woz_rows.FILE).write_text(text)
    with pytest.raises(DataError, match=reason):
        read_saved(tmp_path)


def test_the_command_knows_its_flags(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["woz_rows", "--row", "sft"])
    with pytest.raises(DataError, match="--row belongs to --runs"):
        woz_rows.main()
    monkeypatch.setattr("sys.argv", ["woz_rows", "--help"])
    with pytest.raises(SystemExit):
        woz_rows.main()
    assert "--runs" in capsys.readouterr().out


# --- at the end of a run -------------------------------------------------------------------------

def played(number, *replies):
    return SimpleNamespace(number=number, replies=list(replies))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """What a run on multiwoz measures of its own; the database is made by hand."""
    test = [Dialogue(name, (Turn("u"),) * 2) for name in ("SNG1.json", "SNG2")]
    world = SimpleNamespace(name="multiwoz", test=test, train=[None] * 1234)
    config = {"run": {"algo": "sft", "data_dir": "here"}, "warm": {"warm_dialogues": 50}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(woz_rows, "test_of", lambda folder: woz_rows.Test(KNOWN, Tables()))
    monkeypatch.setattr("start.of_dataset.files_in", lambda folder: Path(folder))
    return own_measures(tmp_path, world, None)


def test_the_split_is_the_training_one_if_it_is_there(tmp_path):
    assert multiwoz.split_of(tmp_path) == "validation"
    (tmp_path / multiwoz.TRAIN).touch()
    assert multiwoz.split_of(tmp_path) == "training"


def test_rows_that_speak_are_told_and_kept(own, tmp_path, capsys):
    speaking = SimpleNamespace(speaker=object())
    own.keep("sft", speaking, [played(0, *GOOD), played(1, *POOR)])
    own.keep("silent", SimpleNamespace(speaker=Silence(None)), [played(0, "", "")])
    own.keep("mute", speaking, [played(0, "", ""), played(1, "", "")])
    own.write(tmp_path / "woz.json")
    own.tell()
    said = capsys.readouterr().out
    assert "1,234 dialogues of the validation split (50 of them in the warm start)" in said
    names = [line[:26].strip() for line in said.splitlines()[3:8]]
    assert names == [PEOPLE, STUFFING, "sft", "mute", "HDNO, published"]
    saved = read_saved(tmp_path)
    assert saved.name == "sft"
    assert saved.rows["sft"] == row_of(GOOD, POOR)
    assert list(saved.rows) == ["sft", "mute"]


def test_where_the_trained_row_was_not_played_the_first_counts(own, tmp_path):
    for name in ("warm_start", "untrained"):
        own.keep(name, SimpleNamespace(speaker=object()), [played(0, *GOOD)])
    own.write(tmp_path / "woz.json")
    assert read_saved(tmp_path).name == "warm_start"


def test_without_words_nothing_is_told(own, tmp_path, capsys):
    own.keep("sft", SimpleNamespace(speaker=Silence(None)), [played(0, "", "")])
    own.write(tmp_path / "woz.json")
    own.tell()
    assert not (tmp_path / "woz.json").exists()
    assert capsys.readouterr().out == ""


def test_another_dataset_measures_nothing_of_its_own(tmp_path):
    found = own_measures(tmp_path, SimpleNamespace(name="mgshop"), None)
    assert type(found) is OwnMeasures
    found.keep("gopo", SimpleNamespace(speaker=object()), [Episode(0, None, None)])
    found.write(tmp_path / "woz.json")
    assert not (tmp_path / "woz.json").exists()


# --- flags ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, slots", [
    ([], "every"), (["--algo", "sft"], "every"), (["--replies", "template"], "known"),
    (["--woz_slots", "known"], "known"),
    (["--replies", "template", "--woz_slots", "every"], "every"),
])
def test_who_speaks_may_say_every_slot(flags, slots):
    configs = parse_flags(["--dataset", "multiwoz", *flags], "")
    assert with_slots(configs).run.woz_slots == slots
    assert with_slots(parse_flags(["--dataset", "star"], "")).run.woz_slots is None


def test_other_slots_and_other_datasets_are_refused():
    with pytest.raises(DataError, match="--woz_slots must be one of known, every, got 'some'"):
        data.load("multiwoz", woz_slots="some")
    with pytest.raises(DataError, match="--woz_slots chooses the slots of multiwoz; star has none"):
        data.load("star", woz_slots="every")


def test_a_base_of_before_the_flag_had_known_slots(strategy_run, tmp_path):
    config = read_config(strategy_run)
    older = config | {"run": config["run"] | {"dataset": "multiwoz"}}
    older["run"].pop("woz_slots")
    (tmp_path / "config.json").write_text(json.dumps(older))

    def ours(slots):
        return older | {"run": older["run"] | {"woz_slots": slots}}

    with pytest.raises(DataError, match="with --woz_slots known, this run has every"):
        check_base(tmp_path, ours("every"))
    assert check_base(tmp_path, ours("known"))
    # other datasets have no such slots, then or now
    assert check_base(strategy_run, config)


def test_more_without_tasks_shares_its_warm_start():
    assert MORE.warm_key(MoreConfig(more_scaffold_steps=0)) == SFT.warm_key(None)
    assert MORE.warm_key(MoreConfig()) != SFT.warm_key(None)


def test_more_goes_without_what_the_data_lacks(capsys):
    bare = SimpleNamespace(name="logs", facts=None, tasks=None)
    fitted = MORE.options_for(MoreConfig(), bare, frozenset())
    assert fitted.names == ("NAT", "RUD", "RGE", "BLEU")
    assert not fitted.reasons
    said = capsys.readouterr().out
    assert "--more_rewards NAT,RUD,RGE,BLEU" in said
    assert "--more_scaffold_steps 0" in said
    # what was asked for stays, and is refused
    given = {"more_rewards", "more_scaffold_steps"}
    assert MORE.options_for(MoreConfig(), bare, given) == MoreConfig()
    whole = SimpleNamespace(name="sale", facts=len, tasks=len)
    assert MORE.options_for(MoreConfig(), whole, frozenset()) == MoreConfig()


# --- a real run ----------------------------------------------------------------------------------

DATA = Path(os.environ.get("GOPO_DATA", "data"))
SHORT = [
    "--dataset", "multiwoz", "--data_dir", str(DATA), "--model", "nano", "--precision", "fp32",
    "--pretrain_steps", "1", "--warm_steps", "1", "--sft_batch", "4", "--steps", "1",
    "--max_new_tokens", "8", "--group", "2", "--eval_episodes", "2", "--dev_episodes", "1"]


@pytest.mark.parametrize("algo", ["sft", "more"])
@pytest.mark.skipif(not (DATA / "multiwoz/val.json.zip").exists(), reason="set GOPO_DATA")
def test_a_run_ends_with_the_table(algo, tmp_path, monkeypatch, capsys):
    real = multiwoz.load

    def small(*args, **options):
        found = real(*args, **options)
        assert options["slots"] == "every"
        return replace(found, train=found.train[:6], dev=found.dev[:2], test=found.test[:3])

    monkeypatch.setattr(multiwoz, "load", small)
    run = tmp_path / "run"
    assert train.main([*SHORT, "--algo", algo, "--output_dir", str(run)]) == 0
    said = capsys.readouterr().out
    assert "trained on 6 dialogues of the" in said
    assert "HDNO, published" in said
    saved = read_saved(run)
    assert saved.name == algo
    assert {len(row) for row in saved.rows.values()} == {2}
    assert json.loads((run / "config.json").read_text())["run"]["woz_slots"] == "every"
    kept = tmp_path / "more.json"
    flags = ["--run", str(run), "--rows", algo, "--episodes", "3", "--json", str(kept)]
    assert evaluation.main(flags) == 0
    assert "3 test dialogues" in capsys.readouterr().out
    again = read_saved(tmp_path / "more.woz.json")
    assert list(again.rows) == [algo]
    # the same replies to the dialogues that both met
    assert again.rows[algo].items() > saved.rows[algo].items()
    assert "combined    +0.0 [+0.0, +0.0]" in compared([run, tmp_path / "more.woz.json"])
