"""The experiments: which runs a row reads, fairness of the jobs, settings, what the studies write.

At the end the real trainer makes a whole small folder.  Tasks are in test_tasks.py."""
import json
import os
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

import data
import eval
from data import DataError
from experiments import layout, paper, studies
from experiments import rows as row_table
from experiments.paper import JOBS, PAPER, conduct, measuring, training
from experiments.rows import PAPER_ROWS, Maker, Weights, grouped, rows, runs_read
from experiments.settings import Settings, agree
from gopo import algorithm
from infra.jobs import order
from infra.locks import alone_in
from shop import mgshop
from start.base import check_base
from start.flags import PARTS, parse_flags
from start.resolve import settle
from tests.made_up import made_up

S = Settings("mgshop", "mgshop", 2, 3, precision="fp32")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """runs/ and results/ of a test are its own; and train.main's signal handlers are taken back."""
    monkeypatch.chdir(tmp_path)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in handlers.items():
        signal.signal(name, handler)


# ---------------------------------------------------------------- rows

@pytest.mark.parametrize("study", JOBS)
def test_a_row_says_which_runs_it_reads(study, monkeypatch):
    """What load_gopo is asked for, of every row; and no job is trained for nothing."""
    opened = set()

    def load(run, dataset, judge=None, **stages):
        for stage in ("", *stages.values()):
            path = (run / stage).resolve().relative_to(S.root.resolve())
            opened.add(path.parts[0])
        return MagicMock()

    monkeypatch.setattr(row_table, "load_gopo", load)
    cs_agent = "api:small" if study == "paper" else None
    s = replace(S, study=study, cs_agent=cs_agent)
    maker = Maker(s, 1, MagicMock(), None, None)
    read = set()
    for name, spec in rows(s).items():
        opened.clear()
        runs = runs_read(spec, 1)
        if name.startswith("api_"):
            assert runs == {"gopo-1"}
        else:
            list(maker.group({name: spec}))
            assert opened == runs, name
        read |= {run.rpartition("-")[0] for run in runs}
    assert read <= set(JOBS[study])
    # the base of all
    assert set(JOBS[study]) - read <= {"base"}


def test_rows_with_the_same_weights_load_them_once(monkeypatch):
    loaded = []

    def load(run, dataset, judge=None, **stages):
        loaded.append((run.name, *stages.values()))
        return MagicMock()

    monkeypatch.setattr(row_table, "load_gopo", load)
    maker = Maker(S, 1, MagicMock(), None, None)
    groups = grouped(PAPER_ROWS)
    made = []
    for group in groups:
        made += [name for name, _, _ in maker.group(group)]
    assert sorted(made) == sorted(PAPER_ROWS)
    together = {"gopo", "teacher", "random", "ex_prompted"}
    assert together in [set(group) for group in groups]
    # each group once, and the untrained LM that is asked for skills
    assert len(loaded) == len(groups) + 1
    assert len(set(loaded)) == len(loaded)
    assert loaded.count(("gopo-1", "expert.safetensors", "csagent")) == 1
    assert Weights("gopo") == PAPER_ROWS["teacher"].weights


def test_rows_are_those_that_the_tables_know():
    known = set(layout.ROWS)
    assert set(rows(S)) == known
    # another seed's agents need another seed
    assert known - set(rows(replace(S, seeds=1))) == {"cs_other", "ex_other"}
    hosted = rows(replace(S, expert="api:org/Big-1", cs_agent="api:small"))
    # two models: no row of Table 2, which has one
    assert set(hosted) - known == {"api_cs_small", "api_ex_org-Big-1"}
    both = rows(replace(S, expert="api:small", cs_agent="api:small"))
    assert set(both) - known == {"api_cs_small", "api_ex_small", "api_small"}


# ---------------------------------------------------------------- the order of jobs

def test_a_seed_is_measured_before_the_next_one_but_one_is_trained():
    tasks = []
    for seed in range(4):
        for name, flags in PAPER.items():
            tasks.append(training(S, name, seed, flags, None))
    tasks += [measuring(replace(S, seeds=4), seed, None, None) for seed in range(4)]
    names = [t.name for t in order(tasks)]
    assert sorted(names) == sorted(t.name for t in tasks)
    for t in tasks:
        assert all(names.index(n) < names.index(t.name) for n in t.needs), t.name
    assert names.index("measure-0") < names.index("gopo-3")


# ---------------------------------------------------------------- fairness

def parsed(name, flags):
    """A job's flags as train.py's own parser reads them."""
    _, argv = training(S, name, 0, flags, None).arguments
    return parse_flags(argv, "")


def config_of(configs, dataset):
    """As train.py writes it to config.json."""
    config = {name: asdict(getattr(configs, name)) for name in PARTS}
    config["options"] = configs.options and asdict(configs.options)
    return settle(config, dataset)


@pytest.mark.parametrize("study", JOBS)
def test_every_job_is_a_command_that_train_accepts_and_a_base_that_it_shares(study):
    """Not a copy of train.py's rules: its own parser and its own check of a base."""
    configs = {}
    dataset = data.load("mgshop")
    folder = Path("of_base")
    folder.mkdir()
    for name, flags in JOBS[study].items():
        flagged = parsed(name, flags)
        cfg, gopo = flagged.run, flagged.gopo
        assert cfg.output_dir == str(S.run(name, 0))
        assert (cfg.seed, cfg.eval_episodes, cfg.precision) == (0, 0, "fp32")
        configs[name] = config_of(flagged, dataset)
        if not cfg.base:
            continue
        base = cfg.base.removeprefix("runs/paper-mgshop/").removesuffix("-0")
        (folder / "config.json").write_text(json.dumps(configs[base]))
        # refuses another pretraining or warm start
        shared = check_base(folder, configs[name])
        # another prompt, another model: another language model
        own_lm = name in ("gopo_soft", "gopo_nano", "warm_soft")
        own_warm_start = own_lm or name in ("warm_0", "warm_30", "warm_100", "warm_300")
        assert ("untrained" in shared) == (not own_lm)
        assert ("warm_start" in shared) == (not own_warm_start)
        same_reward = gopo.outcome_weight == 0 and gopo.reward == "joint"
        same_learner = cfg.algo == "gopo" and same_reward
        assert ("strategy.safetensors" in shared) == same_learner, name


def test_the_same_sizes_everywhere():
    jobs = JOBS["warm_start"]
    for size in (30, 100, 1000):
        learning, fixed = parsed("x", jobs[f"warm_{size}"]), parsed("x", jobs[f"fixed_{size}"])
        assert not learning.gopo.fix_expert and fixed.gopo.fix_expert
        assert learning.warm == fixed.warm
        assert fixed.run.base == str(S.run(f"warm_{size}", 0))
    started = parsed("x", jobs["warm_100"]).warm
    for name in ("no_9c", "no_9d", "warm_soft"):
        assert parsed(name, jobs[name]).warm == started
    assert parsed("x", jobs["no_9c"]).agent.lambda_s == 0
    assert parsed("x", jobs["no_9d"]).agent.lambda_d == 0


def test_all_methods_take_as_many_steps_with_as_many_replies():
    for name, flags in PAPER.items():
        _, argv = training(replace(S, steps=7), name, 0, flags, None).arguments
        flagged = parse_flags(argv, "")
        steps = 7
        if name in ("base", "single"):
            steps = 0
        assert flagged.run.steps == steps
        assert flagged.gopo.dialogues is None
        # the method's own number of replies, which is the same for all
        assert flagged.agent.group is None
        assert algorithm(flagged.run.algo).candidates == 4
        assert flagged.agent.agent_lr == 2e-4


def test_single_agents_start_from_a_single_agent():
    for name, flags in PAPER.items():
        flagged = parsed(name, flags)
        cfg, gopo = flagged.run, flagged.gopo
        single = algorithm(cfg.algo).single or name in ("single", "gopo_single")
        assert gopo.no_expert == single
        base = "/single-0" if single else "/base-0"
        assert not cfg.base or cfg.base.endswith(base)


# ---------------------------------------------------------------- settings

def test_a_folder_goes_on_with_what_it_was_begun_with():
    auto = replace(S, precision="auto")
    first = agree(auto)
    assert first.precision in ("fp32", "bf16")
    assert agree(replace(auto, seeds=5)) == replace(first, seeds=5)
    # never fewer than there are
    assert agree(auto).seeds == 5
    with pytest.raises(DataError, match=r"results/mgshop was begun with --episodes 3, now 4"):
        agree(replace(S, episodes=4))
    # other results, the same runs
    begun = r"runs/paper-mgshop was begun with --model tiny, now nano"
    with pytest.raises(DataError, match=begun):
        agree(replace(S, study="hacking", model="nano"))
    # rows come on top
    assert agree(replace(auto, expert="api:new")).expert == "api:new"
    assert agree(auto).expert is None
    assert replace(S, study="hacking").results != S.results
    transfer = replace(S, dataset="tmallbrand-b")
    assert transfer.results.name == "mgshop-to-tmallbrand-b"


def test_two_calls_do_not_train_into_the_same_runs():
    with alone_in(S.root):
        refused = pytest.raises(DataError, match="runs/paper-mgshop: another process")
        with refused, alone_in(S.root):
            pass
        with alone_in(replace(S, train_on="tmallbrand-a").root):
            pass
    # free again
    with alone_in(S.root):
        pass


def test_what_could_not_be_measured_is_refused_before_training(tmp_path, capsys):
    turn = '{"user": "hi", "skills": ["greet"], "reply": "Hello."}'
    lines = [f'{{"id": "{n}", "turns": [{turn}]}}\n' for n in range(6)]
    (tmp_path / "logs.jsonl").write_text("".join(lines))
    for dataset, said in (("nowhere.jsonl", "nowhere.jsonl"), ("logs.jsonl", "replayed logs")):
        assert studies.main(["warm_start", "--dataset", dataset, "--seeds", "1"]) == 2
        assert said in capsys.readouterr().err
    assert eval.main(["--paper", "--dataset", "tmallbrand-b", "--train_on", "mgshop"]) == 2
    assert "its skills are not those of mgshop" in capsys.readouterr().err
    assert not Path("runs").exists()
    with pytest.raises(SystemExit):
        studies.main(["hacking", "--seeds", "0"])
    assert "must be at least 1" in capsys.readouterr().err


def test_a_run_that_was_stopped_is_not_complete(tmp_path):
    (tmp_path / "config.json").write_text('{"run": {"steps": 2}}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    # train.py draws it even when it is stopped
    (tmp_path / "curves.png").write_text("")
    assert not paper.complete(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    os.utime(tmp_path / "curves.png", (0, 0))
    # resumed, and killed before the agents were written again
    assert not paper.complete(tmp_path)
    (tmp_path / "curves.png").touch()
    assert paper.complete(tmp_path)


# ---------------------------------------------------------------- what the studies write

def mean_tse(s, row, seed):
    kept = json.loads(s.row_file(row, seed).read_text())
    return np.mean([c["tse"] for c in kept["customers"]])


def test_the_warm_start_study_by_hand(capsys):
    s = replace(S, study="warm_start")
    # 30 was not finished
    levels = {
        "before_0": 0.2,
        "after_0": 0.5,
        "before_30": 0.6,
        "before_100": 0.3,
        "after_100": 0.3,
        "fixed_100": 0.4,
        "no_9c": 0.1,
    }
    made_up(s.results, levels, (0, 1), 30, curves=False)
    looks = [{"method": "warm_0_dev", "seed": 0, "step": step, "tse": step / 40}
             for step in (10, 20)]
    looks.append({"method": "warm_0", "seed": 0, "step": 1, "tse": 0.5})
    (s.results / "evals/curves-0.jsonl").write_text("".join(json.dumps(x) + "\n" for x in looks))
    studies.write_warm_start(s)
    found = json.loads((s.results / "warm_start.json").read_text())
    assert [r["dialogues"] for r in found] == [0, 100]
    before = [mean_tse(s, "before_0", seed) for seed in (0, 1)]
    after = [mean_tse(s, "after_0", seed) for seed in (0, 1)]
    assert found[0]["before"]["seeds"] == pytest.approx(before)
    rise = np.mean(after) - np.mean(before)
    assert found[0]["difference"]["mean"] == pytest.approx(rise)
    lines = (s.results / "warm_start.md").read_text().splitlines()
    line = next(x for x in lines if x.startswith("| 0 |"))
    assert f"| {np.mean(after):.3f} [" in line
    assert "; t [" in line
    # no Expert was fixed there
    assert line.endswith("| — | — |")
    fixed = [mean_tse(s, "fixed_100", seed) for seed in (0, 1)]
    start = [mean_tse(s, "before_100", seed) for seed in (0, 1)]
    assert found[1]["difference_fixed"]["mean"] == pytest.approx(np.mean(fixed) - np.mean(start))
    parts = [x.split(" | ")[0] for x in lines[lines.index("") + 3:]]
    # nothing was measured without Eq. 9d
    assert parts == ["| as they are", "| without Eq. 9c", "| the Expert fixed"]
    less = np.mean([mean_tse(s, "no_9c", n) - mean_tse(s, "after_100", n) for n in (0, 1)])
    assert f"| {less:+.3f}".replace("-", "−") in "\n".join(lines)
    assert line in capsys.readouterr().out
    assert (s.results / "warm_start.png").exists()
    assert (s.results / "warm_start_along.png").exists()


def test_the_hacking_study_by_hand():
    s = replace(S, study="hacking")
    levels = {"strategy": 0.4, "long": 0.7, "strategy_judge": 0.4, "long_judge": 0.2}
    made_up(s.results, levels, (0, 1), 30, curves=False)
    studies.write_hacking(s)
    cells = []
    for line in (s.results / "hacking.md").read_text().splitlines():
        cells.append([cell.strip() for cell in line.split("|")[1:-1]])
    head, _, *lines = cells
    column = {line[0]: line[head.index("tse")] for line in lines}
    assert column["GOPO, 100 joint steps − before"][0] == "+"
    assert column["Expert paid R^A only, 100 joint steps − before"][0] == "−"
    assert "; t [" in column["GOPO, 100 joint steps − before"]
    assert "t" not in column["GOPO, 100 joint steps"]


# ---------------------------------------------------------------- whole, small

SMALL = (
    *("--dialogues", "3"),
    *("--strategy_steps", "2"),
    *("--strategy_dialogues", "3"),
    *("--expert_warm", "1"),
    *("--pretrain_steps", "3"),
    *("--warm_steps", "3"),
    *("--max_new_tokens", "8"),
    *("--group", "2"),
    *("--sft_batch", "8"),
)
SMALL_JOBS = ("base", "single", "gopo", "memento")
SMALL_ROWS = ("gopo", "untrained_dual", "ex_memento", "teacher")


def run_here(tasks, workers, logs, finished):
    """As run_tasks, in this process; returns what failed."""
    failed = []
    for t in tasks:
        if t.done():
            continue
        if t.work(*t.arguments):
            failed.append(t.name)
        else:
            finished(t.name, 1.0)
    return failed


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def small(monkeypatch):
    """The paper's folder with four jobs and four rows."""
    monkeypatch.setattr(mgshop, "SIZES", {"train": 30, "dev": 5, "test": 5})
    monkeypatch.setattr(paper, "run_tasks", run_here)
    jobs = {name: (*PAPER[name], *SMALL) for name in SMALL_JOBS}
    monkeypatch.setitem(JOBS, "paper", jobs)
    some = {name: PAPER_ROWS[name] for name in SMALL_ROWS}
    monkeypatch.setitem(row_table.ROWS_OF, "paper", some)
    return replace(S, seeds=1, steps=1)


def conducted(s):
    return conduct(s, 1, None, None, "a command") == 0


def test_a_small_folder_from_the_real_trainer(small, capsys):
    """Trained and measured in this process instead of in processes of their own."""
    s = small
    assert conducted(s)
    check_tables(s)
    check_dialogues(s)

    kept = s.row_file("gopo", 0)
    before = kept.stat().st_mtime_ns
    assert conducted(s)
    # nothing is done twice
    assert kept.stat().st_mtime_ns == before
    calls = json.loads((s.results / "calls.json").read_text())["calls"]
    assert [c["command"] for c in calls] == ["a command"] * 2

    def curves():
        return [(r["method"], r["step"]) for r in read_jsonl(s.results / "curves.jsonl")]

    assert curves() == [("gopo", 1), ("memento", 1)]
    for lost in ("memento-0", "single-0"):
        shutil.rmtree(s.root / lost)
    kept.unlink()
    # one row is missing: only what it reads is needed
    assert conducted(s)
    assert kept.exists()
    assert {p.name for p in s.root.glob("*-0")} == {"base-0", "gopo-0"}
    assert curves() == [("gopo", 1), ("memento", 1)]
    s.row_file("ex_memento", 0).unlink()
    assert conducted(s)
    assert (s.root / "memento-0").exists()
    assert not (s.root / "single-0").exists()


def check_tables(s):
    results = json.loads((s.results / "results.json").read_text())
    table = {r["name"]: r for r in results["tables"][0]["rows"]}
    assert table["GOPO"]["cells"]["tse"]["mean"] is not None
    # not run, and still listed
    assert table["PPO, single agent"]["cells"] is None
    files = {p.name for p in s.results.iterdir()}
    assert {"tables.md", "tables.csv", "report.html", "figure1.png"} <= files
    assert {"curves.jsonl", "dialogues.jsonl", "calls.json"} <= files


def check_dialogues(s):
    kept = json.loads(s.row_file("gopo", 0).read_text())
    assert len(kept["customers"]) == 3 == len(kept["bleu"])
    assert "tse_2nd_ear" in kept["customers"][0]
    read = read_jsonl(s.results / "dialogues.jsonl")
    assert {r["method"] for r in read} == set(SMALL_ROWS)
    assert all(r["turns"] for r in read)
    for row in read:
        if row["method"] == "gopo":
            # played a second time, for the other ear
            mood = kept["customers"][int(row["customer"])]["mood"]
            assert row["turns"][-1]["mood"] == pytest.approx(mood)
