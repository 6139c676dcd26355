"""The runner of the experiments: tasks and what they need, fairness of the jobs, and a whole small folder from the real trainer."""
import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from unittest.mock import MagicMock

import numpy as np
import pytest

import eval
import gopo
import train
from data import DataError
from experiments import paper as experiments
from experiments import tables
from experiments.paper import JOBS, PAPER, Settings, agree, conduct, rows, training
from gopo import algorithm
from infra.jobs import Task, order, run_tasks, stop_once, wanted
from infra.runs import alone_in
from shop import mgshop
from start.stages import check_base
from tests.test_tables import made_up

S = Settings("mgshop", "mgshop", 2, 3, precision="fp32")

@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """runs/ and results/ of a test are its own; and train.main's signal handlers are taken back."""
    monkeypatch.chdir(tmp_path)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in handlers.items():
        signal.signal(name, handler)

# ---------------------------------------------------------------- tasks

def write(path: str, text: str, code: int = 0) -> int:
    print(f"writing {path}")
    print("a word to stderr", file=sys.stderr)
    if code == 0:
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"{text} {time.time()}")
    return code

def burst(path: str) -> int:
    raise ValueError("burst")

def task(tmp_path, name, needs=(), work=write, arguments=None) -> Task:
    path = tmp_path / name
    return Task(name, work, arguments or (str(path), name), path.exists, needs)

def test_tasks_run_after_what_they_need_and_not_twice(tmp_path):
    (tmp_path / "there").write_text("kept")
    tasks = [task(tmp_path, "late", ("early",)), task(tmp_path, "early", ("there",)), task(tmp_path, "there")]
    times = {}
    assert run_tasks(tasks, 2, tmp_path / "logs", times.__setitem__) == []
    when = lambda name: float((tmp_path / name).read_text().split()[1])
    assert when("early") < when("late") and (tmp_path / "there").read_text() == "kept" and set(times) == {"early", "late"}
    log = (tmp_path / "logs/late.log").read_text()
    assert "writing" in log and "a word to stderr" in log

def patient(started: str, saved: str) -> int:
    """As train.py: told to stop, it ends its step and saves."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    open(started, "w").close()
    while not told:
        time.sleep(0.01)
    time.sleep(0.3)
    open(saved, "w").close()
    return 130

def test_two_signals_stop_every_job_once_and_wait_for_all(tmp_path):
    names = ("one", "two")
    tasks = [Task(n, patient, (str(tmp_path / f"{n}.started"), str(tmp_path / n)), lambda: False) for n in names]
    def interrupt():
        while not all((tmp_path / f"{n}.started").exists() for n in names):
            time.sleep(0.05)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
    signal.signal(signal.SIGINT, stop_once)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks, 2, tmp_path / "logs", lambda *_: None)
    thread.join()
    assert all((tmp_path / n).exists() for n in names)

def test_what_failed_is_named_with_all_that_needed_it(tmp_path, capfd):
    path = str(tmp_path / "x")
    tasks = [task(tmp_path, "exits", arguments=(path, "x", 3)), task(tmp_path, "bursts", work=burst, arguments=(path,)), task(tmp_path, "needs_it", ("bursts",)),
             task(tmp_path, "lies", arguments=(path, "x")), task(tmp_path, "fine")]
    failed = run_tasks(tasks, 3, tmp_path / "logs", lambda *_: None)
    assert sorted(failed) == ["bursts", "exits", "lies", "needs_it"] and (tmp_path / "fine").exists()        # "lies" returned 0 and left nothing
    assert "ValueError: burst" in (tmp_path / "logs/bursts.log").read_text()
    assert "bursts.log" in capfd.readouterr().out                                                            # where to look

def test_a_seed_is_measured_before_the_next_one_but_one_is_trained():
    tasks = [training(S, name, seed, flags, None) for seed in range(4) for name, flags in PAPER.items()]
    tasks += [experiments.measuring(replace(S, seeds=4), seed, None, None) for seed in range(4)]
    names = [t.name for t in order(tasks)]
    assert sorted(names) == sorted(t.name for t in tasks)
    for t in tasks:
        assert all(names.index(n) < names.index(t.name) for n in t.needs), t.name
    assert names.index("measure-0") < names.index("gopo-3")

def test_a_seed_whose_numbers_are_there_is_not_trained_again(tmp_path):
    trainings = [task(tmp_path, "base"), task(tmp_path, "run", ("base",)), task(tmp_path, "other", ("base",))]
    (tmp_path / "measured").write_text("")
    first, second = task(tmp_path, "measured", ("other", "run")), task(tmp_path, "to_measure", ("run",))
    assert [t.name for t in wanted(trainings, [first, second])] == ["base", "run", "measured", "to_measure"]
    (tmp_path / "run").write_text("")
    assert [t.name for t in wanted(trainings, [first, second])] == ["run", "measured", "to_measure"]         # what it began with may be gone
    assert wanted(trainings, [first]) == [first]


@pytest.mark.parametrize("study", JOBS)
def test_a_row_says_which_runs_it_reads(study, monkeypatch):
    """What load_gopo is asked for, told of every row; and no job is trained for nothing."""
    opened = set()
    def load(run, dataset, judge=None, **stages):
        opened.update((run / stage).resolve().relative_to(S.root.resolve()).parts[0] for stage in ("", *stages.values()))
        return MagicMock()
    monkeypatch.setattr(gopo, "load_gopo", load)
    s, read = replace(S, study=study, cs_agent="api:small" if study == "paper" else None), set()
    for name, row in rows(s, 1, MagicMock(), None).items():
        opened.clear()
        if name.startswith("api_"):
            assert row.runs == ("gopo-1",)
        else:
            row.make()
            assert opened == set(row.runs), name
        read |= {run.rpartition("-")[0] for run in row.runs}
    assert read <= set(JOBS[study]) and set(JOBS[study]) - read <= {"base"}        # the base of all


# ---------------------------------------------------------------- fairness

@pytest.mark.parametrize("study", JOBS)
def test_every_job_is_a_command_that_train_accepts_and_a_base_that_it_shares(study):
    """Not a copy of train.py's rules: its own parser and its own check of a base."""
    configs = {}
    for name, flags in JOBS[study].items():
        run, argv = training(S, name, 0, flags, None).arguments
        cfg, gopo, expert, lm, agent, warm, _, options = train.parse(argv)
        assert (cfg.seed, cfg.eval_episodes, cfg.precision, cfg.output_dir) == (0, 0, "fp32", str(run))
        as_dict = lambda c: {k: getattr(c, k) for k in c.__dataclass_fields__}
        configs[name] = {"run": as_dict(cfg), "gopo": as_dict(gopo), "expert": as_dict(expert), "lm": as_dict(lm), "agent": as_dict(agent),
                         "warm": as_dict(warm), "options": options and as_dict(options)}
        if cfg.base:
            base = cfg.base.removeprefix("runs/paper-mgshop/").removesuffix("-0")
            folder = experiments.Path("of_base")
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(configs[base]))
            shared = check_base(folder, configs[name])                       # refuses another pretraining or warm start
            own = name in ("gopo_soft", "gopo_nano")                                      # another prompt, another model: another language model
            assert ("untrained" in shared, "warm_start" in shared) == (not own, not own and not name.startswith("warm_"))
            same_learner = cfg.algo == "gopo" and gopo.outcome_weight == 0 and gopo.reward == "joint"
            assert ("strategy.safetensors" in shared) == same_learner, name

def test_all_methods_take_as_many_steps_with_as_many_replies():
    for name, flags in PAPER.items():
        cfg, gopo, _, _, agent, *_ = train.parse(training(replace(S, steps=7), name, 0, flags, None).arguments[1])
        assert cfg.steps == (0 if name in ("base", "single") else 7) and gopo.dialogues is None and agent.group == 4 and agent.agent_lr == 2e-4

def test_single_agents_start_from_a_single_agent():
    for name, flags in PAPER.items():
        cfg, gopo, *_ = train.parse(training(S, name, 0, flags, None).arguments[1])
        assert gopo.no_expert == (algorithm(cfg.algo).single or name in ("single", "gopo_single"))
        assert not cfg.base or cfg.base.endswith("/single-0" if gopo.no_expert else "/base-0")

def test_rows_are_those_that_the_tables_know():
    assert set(rows(S, 0, None, None)) == set(tables.ROWS)
    assert set(tables.ROWS) - set(rows(replace(S, seeds=1), 0, None, None)) == {"cs_other", "ex_other"}       # another seed's agents need another seed
    hosted = rows(replace(S, expert="api:org/Big-1", cs_agent="api:small"), 0, None, None)
    assert set(hosted) - set(tables.ROWS) == {"api_cs_small", "api_ex_org-Big-1"}                # two models: no row of Table 2, which has one
    both = rows(replace(S, expert="api:small", cs_agent="api:small"), 0, None, None)
    assert set(both) - set(tables.ROWS) == {"api_cs_small", "api_ex_small", "api_small"}

# ---------------------------------------------------------------- settings

def test_a_folder_goes_on_with_what_it_was_begun_with():
    first = agree(replace(S, precision="auto"))
    assert first.precision in ("fp32", "bf16") and agree(replace(S, precision="auto", seeds=5)) == replace(first, seeds=5)
    assert agree(replace(S, precision="auto")).seeds == 5                    # never fewer than there are
    with pytest.raises(DataError, match=r"results/mgshop was begun with --episodes 3, now 4"):
        agree(replace(S, episodes=4))
    with pytest.raises(DataError, match=r"runs/paper-mgshop was begun with --model tiny, now nano"):           # other results, the same runs
        agree(replace(S, study="hacking", model="nano"))
    assert agree(replace(S, precision="auto", expert="api:new")).expert == "api:new" and agree(replace(S, precision="auto")).expert is None       # rows come on top
    assert replace(S, study="hacking").results != S.results and replace(S, dataset="tmallbrand-b").results.name == "mgshop-to-tmallbrand-b"

def test_two_calls_do_not_train_into_the_same_runs():
    with alone_in(S.root):
        with pytest.raises(DataError, match="runs/paper-mgshop: another process"), alone_in(S.root):
            pass
        with alone_in(replace(S, train_on="tmallbrand-a").root):
            pass
    with alone_in(S.root):                                          # free again
        pass


def test_what_could_not_be_measured_is_refused_before_training(tmp_path, capsys):
    line = '{"id": "%d", "turns": [{"user": "hi", "skills": ["greet"], "reply": "Hello."}]}\n'
    (tmp_path / "logs.jsonl").write_text("".join(line % n for n in range(6)))
    for dataset, said in (("nowhere.jsonl", "nowhere.jsonl"), ("logs.jsonl", "replayed logs")):
        assert experiments.main(["warm_start", "--dataset", dataset, "--seeds", "1"]) == 2
        assert said in capsys.readouterr().err
    assert eval.main(["--paper", "--dataset", "tmallbrand-b", "--train_on", "mgshop"]) == 2
    assert "its skills are not those of mgshop" in capsys.readouterr().err and not experiments.Path("runs").exists()
    with pytest.raises(SystemExit):
        experiments.main(["hacking", "--seeds", "0"])
    assert "must be at least 1" in capsys.readouterr().err

def test_a_run_that_was_stopped_is_not_complete(tmp_path):
    (tmp_path / "config.json").write_text('{"run": {"steps": 2}}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "curves.png").write_text("")                                 # train.py draws it when it is stopped, too
    assert not experiments.complete(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    os.utime(tmp_path / "curves.png", (0, 0))
    assert not experiments.complete(tmp_path)                                # resumed, and killed before the agents were written again
    (tmp_path / "curves.png").touch()
    assert experiments.complete(tmp_path)


# ---------------------------------------------------------------- what the studies write, of made-up numbers

def test_the_warm_start_study_by_hand(capsys):
    s = replace(S, study="warm_start")
    made_up(s.results, {"before_0": 0.2, "after_0": 0.5, "before_30": 0.6, "before_100": 0.3, "after_100": 0.3}, (0, 1), 30, curves=False)
    experiments.write_warm_start(s)
    found = json.loads((s.results / "warm_start.json").read_text())
    assert [r["dialogues"] for r in found] == [0, 100]                         # 30 was not finished
    of = lambda row: [np.mean([c["tse"] for c in json.loads((s.results / f"evals/{row}-{seed}.json").read_text())["customers"]]) for seed in (0, 1)]
    assert found[0]["before"]["seeds"] == pytest.approx(of("before_0")) and found[0]["difference"]["mean"] == pytest.approx(np.mean(of("after_0")) - np.mean(of("before_0")))
    line = next(x for x in (s.results / "warm_start.md").read_text().splitlines() if x.startswith("| 0 |"))
    assert f"| {np.mean(of('after_0')):.3f} [" in line and "; t [" in line and line in capsys.readouterr().out and (s.results / "warm_start.png").exists()

def test_the_hacking_study_by_hand():
    s = replace(S, study="hacking")
    made_up(s.results, {"strategy": 0.4, "long": 0.7, "strategy_judge": 0.4, "long_judge": 0.2}, (0, 1), 30, curves=False)
    experiments.write_hacking(s)
    name, _, *lines = [[x.strip() for x in line.split("|")[1:-1]] for line in (s.results / "hacking.md").read_text().splitlines()]
    column = {line[0]: line[name.index("tse")] for line in lines}
    assert column["GOPO, 100 joint steps − before"][0] == "+" and column["Expert paid R^A only, 100 joint steps − before"][0] == "−"
    assert "; t [" in column["GOPO, 100 joint steps − before"] and "t" not in column["GOPO, 100 joint steps"]

# ---------------------------------------------------------------- whole, small

SMALL = ("--dialogues", "3", "--strategy_steps", "2", "--pretrain_steps", "3", "--warm_steps", "3", "--max_new_tokens", "8", "--group", "2", "--sft_batch", "8")

def test_a_small_folder_from_the_real_trainer(monkeypatch, capsys):
    """The paper's folder with three jobs and four rows, trained and measured here instead of in processes of their own."""
    monkeypatch.setattr(mgshop, "SIZES", {"train": 30, "dev": 5, "test": 5})
    here = lambda tasks, workers, logs, finished: [t.name for t in tasks if not t.done() and (t.work(*t.arguments) or finished(t.name, 1.0))]
    monkeypatch.setattr(experiments, "run_tasks", here)
    monkeypatch.setitem(JOBS, "paper", {name: (*PAPER[name], *SMALL) for name in ("base", "single", "gopo", "memento")})
    some = lambda *given, whole=experiments.paper_rows: {k: v for k, v in whole(*given).items() if k in ("gopo", "untrained_dual", "ex_memento", "teacher")}
    monkeypatch.setattr(experiments, "paper_rows", some)
    s = replace(S, seeds=1, steps=1)
    assert conduct(s, 1, None, None, "a command") == 0
    results = json.loads((s.results / "results.json").read_text())
    table = {r["name"]: r for r in results["tables"][0]["rows"]}
    assert table["GOPO"]["cells"]["tse"]["mean"] is not None and table["PPO, single agent"]["cells"] is None      # not run, and still listed
    assert {"tables.md", "tables.csv", "report.html", "figure1.png", "curves.jsonl", "dialogues.jsonl", "calls.json"} <= {p.name for p in s.results.iterdir()}
    kept = json.loads((s.results / "evals/gopo-0.json").read_text())
    assert len(kept["customers"]) == 3 == len(kept["bleu"]) and "tse_2nd_ear" in kept["customers"][0]
    read = [json.loads(line) for line in (s.results / "dialogues.jsonl").read_text().splitlines()]
    for row in (r for r in read if r["method"] == "gopo"):                          # played a second time, for the other ear
        assert row["turns"][-1]["mood"] == pytest.approx(kept["customers"][int(row["customer"])]["mood"])
    assert {r["method"] for r in read} == {"gopo", "untrained_dual", "ex_memento", "teacher"} and all(r["turns"] for r in read)
    before = (s.results / "evals/gopo-0.json").stat().st_mtime_ns
    assert conduct(s, 1, None, None, "a command") == 0 and (s.results / "evals/gopo-0.json").stat().st_mtime_ns == before    # nothing is done twice
    assert [c["command"] for c in json.loads((s.results / "calls.json").read_text())["calls"]] == ["a command"] * 2
    curves = lambda: [(r["method"], r["step"]) for r in map(json.loads, (s.results / "curves.jsonl").read_text().splitlines())]
    assert curves() == [("gopo", 1), ("memento", 1)]
    for lost in ("memento-0", "single-0"):
        shutil.rmtree(s.root / lost)
    (s.results / "evals/gopo-0.json").unlink()
    assert conduct(s, 1, None, None, "a command") == 0                              # one row is missing: only what it reads is needed
    assert (s.results / "evals/gopo-0.json").exists() and {p.name for p in s.root.glob("*-0")} == {"base-0", "gopo-0"} and curves() == [("gopo", 1), ("memento", 1)]
    (s.results / "evals/ex_memento-0.json").unlink()
    assert conduct(s, 1, None, None, "a command") == 0 and (s.root / "memento-0").exists() and not (s.root / "single-0").exists()
