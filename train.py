"""Trains GOPO: `python train.py --dataset mgshop` on a laptop; `--dataset logs.jsonl` on your logs.

Reads like Sec. 3: play dialogues, reward both agents, update both.  Before the GOPO steps come
stages that are the same for every method (start/stages.py): perception learns its labels; the tiny
language model is pretrained ("untrained" in the tables); both agents are warm-started on the logs;
`--strategy_steps` of GOPO without the language model let the Expert learn its strategy where a
dialogue costs milliseconds.  Ctrl-C or SIGTERM saves and says how to go on; a stage begun before
the GOPO steps starts again."""
from __future__ import annotations

import os

# Before torch is imported: two processes on few cores otherwise spin 20-40x slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if os.environ.get("RANK", "0") != "0":
    # Before tqdm is imported: of several processes one shows its progress.
    os.environ["TQDM_DISABLE"] = "1"

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from start.flags import RunConfig, parse_flags, refuse_early

ABOUT = __doc__.split("\n\n")[0]
if __name__ == "__main__":
    # Before torch is imported, which takes two seconds: --help and a wrong flag end here.
    refuse_early(ABOUT)

import torch
from tqdm import tqdm

from data import DataError, Dataset, Episode, Step
from gopo import Gopo, algorithm_of, expert_config
from hosted.judge import LLMJudge, judge_for
from infra.client import ApiConfig, ApiError
from infra.curves import plot_curves
from infra.devices import here
from infra.domain import save_domain
from infra.files import NO_SPACE, write_json
from infra.flags import recorded
from infra.garbage import long_lived
from infra.processes import any_process, barrier, is_main, join, leave
from infra.progress import bar, whole_run
from infra.runs import (
    Alarms,
    Log,
    last_step,
    load_checkpoint,
    read_config,
    read_rows,
    refuse_ruined,
    save_checkpoint,
    save_tensors,
)
from infra.terminal import command, flush, forgive
from infra.watch import watch
from judge import Judge
from measure import evaluate_run, rows_of, training_row
from play import GopoConfig
from policies import Choose
from show import print_client, print_table
from start import own_judge
from start.of_dataset import OWN_FILE, own_measures
from start.plan import planned
from start.resolve import resolve_together
from start.stages import (
    look,
    prepare_agent,
    prepare_expert,
    prepare_strategy,
    prepare_warm_expert,
    replace_folder,
)

try:
    import resource
except ImportError:                              # Windows
    resource = None

# --- stopping -----------------------------------------------------------------------------------

class Stop:
    """Ctrl-C or SIGTERM: at once during a stage, which resume starts again; else after the step."""

    def __init__(self):
        self.asked = False
        self.wait = False
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._handle)

    def _handle(self, *_: object) -> None:
        if not self.wait or self.asked:
            raise KeyboardInterrupt
        self.asked = True
        tqdm.write("stopping after this step (again to stop at once) ...")


# --- GOPO ---------------------------------------------------------------------------------------

class Record:
    """What a run writes while it trains.  Of several processes the first writes."""

    def __init__(self, run: Path, gopo: Gopo, start: int, report_to: str, customers: int):
        """customers: of a look at held-out dialogues."""
        self.run = run
        self.customers = customers
        self.gopo = gopo
        self.start = start
        self.reporter = watch(report_to, run, "joint", start)
        self.rows = Log(run / "metrics.jsonl", start, self.reporter.rows("train"))
        self.looks = Log(run / "evals.jsonl", start, self.reporter.rows("dev"))
        self.times = Log(run / "timing.jsonl", start)
        self.samples = Log(run / "dialogues.jsonl", start)
        self.alarms = Alarms(more=gopo.signs)

    def step(self, row: dict, seconds: float) -> None:
        """A row of metrics.jsonl, its time, and the alarms that it raises."""
        self.rows.write(row)
        self.times.write({"step": row["step"], "seconds": round(seconds, 3)})
        if is_main():
            for alarm in self.alarms(row):
                tqdm.write(f"alarm at step {row['step']}: {alarm}")

    def save(self, step: int, played: Sequence[Episode]) -> None:
        """Two dialogues to read, then the checkpoint: a resumed run drops what is beyond it."""
        self.refuse_ruined(step)
        for sample in samples(step, played):
            self.samples.write(sample)
        if is_main():
            save_checkpoint(self.run, step, self.gopo.parts())

    def refuse_ruined(self, step: int) -> None:
        parts = self.gopo.parts()
        refuse_ruined(parts["expert"], f"the Expert at step {step}", "expert_lr")
        refuse_ruined(parts.get("agent", {}), f"the language model at step {step}", "agent_lr")

    def look(self, step: int) -> None:
        if is_main():
            tqdm.write(look(self.gopo, step, self.looks, self.customers))
            draw_curves(self.run)

    def catch_up(self, steps: int, every: int) -> None:
        """The look that a killed process saved its checkpoint for and did not come to."""
        due = self.start and (self.start % every == 0 or self.start == steps)
        if due and self.start not in [row["step"] for row in read_rows(self.looks.path)]:
            self.look(self.start)

    def rescue(self, done: int) -> None:
        """Saves what was learned when a judge is gone: not the step that was being played."""
        if is_main() and done > self.start:
            save_checkpoint(self.run, done, self.gopo.parts())


def train(run: Path, gopo: Gopo, cfg: RunConfig, steps: int, stop: Stop) -> int:
    """The loop of Sec. 3.1 and 3.3.  Returns the last step done."""
    barrier()
    start = 0
    if found := load_checkpoint(run):
        start = found[0]
        gopo.restore(found[1])
    record = Record(run, gopo, start, cfg.report_to, cfg.dev_episodes)
    record.catch_up(steps, cfg.eval_every)
    stop.wait = True
    done = start
    with bar("joint steps", steps, initial=start) as shown:
        for done in range(start + 1, steps + 1):
            clock = time.perf_counter()
            played, learned = one_step(gopo, done, cfg.seed, record)
            row = training_row(done, gopo, played, learned)
            record.reporter.dialogues("train", done, played)
            record.step(row, time.perf_counter() - clock)
            # The signal may reach one process a step later than another.
            ending = any_process(stop.asked)
            if done % cfg.save_every == 0 or done == steps or ending:
                record.save(done, played)        # before a judge is asked, who may refuse
            if done % cfg.eval_every == 0 or done == steps:
                record.look(done)
            barrier()
            shown.set_postfix(**in_short(row), refresh=False)
            shown.update()
            if ending:
                break
    record.reporter.close()
    stop.wait = False
    return done


def one_step(gopo: Gopo, number: int, seed: int, record: Record):
    """Sec. 3.1, Eqs. 2-6, 8, 10; then Eq. 7 and Eqs. 9a-9d."""
    try:
        return gopo.step(number, seed)
    except FloatingPointError as error:
        raise FloatingPointError(f"step {number}: {error}") from error
    except ApiError:
        record.rescue(number - 1)
        raise


def in_short(row: dict[str, float | None]) -> dict[str, str]:
    """What the line of progress says of a step."""
    known = [key for key in ("reward", "tse", "loss") if row.get(key) is not None]
    return {key: f"{row[key]:.2f}" for key in known}


def samples(step: int, played: Sequence[Episode]) -> list[dict]:
    """Two training dialogues of this step with skills, rewards and their parts, for reading."""
    found = []
    for episode in played[:2]:
        found.append({
            "step": step,
            "dialogue": episode.number,
            "success": episode.seen.outcome.success,
            "turns": [sample_turn(turn) for turn in episode.steps],
        })
    return found


def sample_turn(step: Step) -> dict:
    decided = {}
    if step.replies[0].decision:
        decided = {"decision": step.replies[0].decision}
    return {
        "user": step.state.user,
        "perceived": step.perceived,
        "skills": step.skills,
        "teacher": step.teacher,
        **decided,
        "reply": step.reply,
        "context": step.seen.context,
        "R_E": step.R_E,
        "S": step.scores[0],
        "R_A": step.R_A[0],
        "R_t": step.R_t,
    }


# --- a run --------------------------------------------------------------------------------------

def execute(run: Path, config: dict, dataset: Dataset, stop: Stop) -> int:
    cfg = recorded(RunConfig, config["run"])
    print(f"{dataset.note or dataset.name}\nrun: {run}   device {config['device']}, "
          f"{config['precision']}, {config['threads']} threads")
    torch.set_num_threads(config["threads"])
    if is_main():
        save_domain(dataset, run / "dataset.json")
    api = recorded(ApiConfig, config.get("api", {}))
    judge = judge_for(dataset, cfg.judge, api)
    with whole_run(run.name, planned(run, config, dataset, last_step(run))):
        done = learn(run, config, dataset, cfg, judge, api, stop)
        leave()                                  # one process is enough for the table
        if not is_main():
            return 0
        draw_curves(run)
        if done < cfg.steps:
            print(f"stopped at step {done} of {cfg.steps}; go on with: {resuming(run)}")
        else:
            finish(run, dataset, cfg, judge)
    return 0


def learn(
    run: Path, config: dict, dataset: Dataset, cfg: RunConfig, judge: Judge, api: ApiConfig,
    stop: Stop,
) -> int:
    """All stages, the GOPO steps, and both agents on disk: the table reads its rows from there."""
    method, options = algorithm_of(config)
    expert_cfg = expert_config(config)
    expert = prepare_expert(
        run, dataset, method, expert_cfg, options, cfg.seed, config["device"])
    agent = None
    if cfg.replies == "lm":
        agent = prepare_agent(run, dataset, config)
    rewards = recorded(GopoConfig, config["gopo"])
    gopo = method(dataset, expert, agent, judge, rewards, options=options)
    prepare_warm_expert(run, gopo, cfg.seed)
    if agent and not rewards.no_expert and cfg.strategy_steps:
        prepare_strategy(run, gopo, cfg.strategy_steps, cfg.seed, cfg.report_to)
    gopo.reach(api)
    gopo.begin(run, cfg.seed)
    if cfg.judge == own_judge.NAME:
        # Not before: the strategy stage marks a phrase book's replies by the thousand.
        gopo.judge = own_judge.judge_by_likelihood(judge, run, dataset, config)
    done = train(run, gopo, cfg, cfg.steps, stop)
    for client in gopo.clients:
        print_client(client)
    if is_main():
        # It comes last: where it is, both agents are of the same step.
        (run / "expert.safetensors").unlink(missing_ok=True)
    if agent:
        replace_folder(run / "csagent", agent.save)
    if is_main():
        save_tensors(expert.state_dict(), run / "expert.safetensors")
    return done


def finish(run: Path, dataset: Dataset, cfg: RunConfig, judge: Judge) -> None:
    """The table, the paths, and what to do next."""
    live = dataset.environment is not None
    own = own_measures(run, dataset, cfg.data_dir)
    if cfg.eval_episodes:
        # Seed 0: the same customers whatever was trained.
        with bar("the table", len(rows_of(run, dataset)), unit="row", leave=False) as rows:
            def note(name: str, gopo: Gopo, choose: Choose, played: list[Episode]) -> None:
                own.keep(name, gopo, played)
                rows.update()

            table = evaluate_run(run, dataset, cfg.eval_episodes, 0, judge, look=note)
        write_json(run / "results.json", table)
        own.write(run / OWN_FILE)
        total = cfg.eval_episodes
        if not live:
            total = min(total, len(dataset.test))
        print(f"\n{total} test dialogues, the same for every row, most probable skills and tokens:")
        print_table(table, live, judge, rewarded=True)
        own.tell()
    if isinstance(judge, LLMJudge):
        print("judge: ", end="")
        print_client(judge.client)
    folder = " csagent/" if cfg.replies == "lm" else ""
    print(f"\nwritten to {run}: config.json metrics.jsonl curves.png dialogues.jsonl "
          f"expert.safetensors{folder}   (peak memory {peak_memory()})")
    print(f"next:  {command('eval.py', '--run', run, '--show', 1)}\n"
          f"       {command('eval.py', '--run', run, '--chat')}")


def draw_curves(run: Path) -> None:
    """curves.png of what the run has logged so far; drawn anew at each evaluation."""
    rows, looks = read_rows(run / "metrics.jsonl"), read_rows(run / "evals.jsonl")
    plot_curves(rows, looks, run / "curves.png", run.name)


def resuming(run: Path) -> str:
    return command("train.py", "--resume", run)


def peak_memory() -> str:
    """In words, of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    if resource is None:
        return "not known on this system"
    # macOS counts in bytes, Linux in KiB
    unit = 1 if sys.platform == "darwin" else 2**10
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"


# --- main ---------------------------------------------------------------------------------------

def reason(error: BaseException, run: Path | None) -> tuple[int, str]:
    """(exit status, what to say) of a run that could not go on."""
    if isinstance(error, FloatingPointError):
        return 3, (f"{error}. Checkpoints in {run}/checkpoint are untouched: lower expert_lr, "
                   f"agent_lr or sft_lr in {run}/config.json and go on with: {resuming(run)}")
    if isinstance(error, torch.OutOfMemoryError):
        first = str(error).splitlines()[0]
        return 2, (f"out of memory ({first}); lower --micro_batch, --group, --max_new_tokens or "
                   "--dialogues, or take a smaller --model; python -m lm.memory says how much each "
                   f"saves. Checkpoints in {run}/checkpoint are untouched")
    said = str(error)
    if run and isinstance(error, ApiError):
        said += f"\ngo on with: {resuming(run)}; no answered request is sent again"
    elif run and isinstance(error, OSError) and error.errno in NO_SPACE:
        said += (f" (run directory {run}): free some space, then go on with: {resuming(run)}; "
                 "what was saved before is kept")
    elif run and isinstance(error, OSError):
        said += f" (run directory {run}); go on with: {resuming(run)}"
    return 2, said


EXPECTED = (
    FloatingPointError, ApiError, torch.OutOfMemoryError, DataError, OSError, ValueError,
)


def main(argv: Sequence[str] | None = None) -> int:
    forgive()
    configs = parse_flags(argv, ABOUT)
    stop, run = Stop(), None
    try:
        device = configs.run.device
        if configs.run.resume:
            device = read_config(Path(configs.run.resume), "--resume")["device"]
        join(here(device))
        with contextlib.ExitStack() as held:     # above all the run directory's lock
            run, config, dataset = resolve_together(configs, held)
            held.enter_context(long_lived())
            status = execute(run, config, dataset, stop)
        flush()
        return status
    except KeyboardInterrupt:
        said = "stopped before anything was written"
        if run:
            said = f"stopped; go on with: {resuming(run)}"
        print(f"\n{said}")
        return 0
    except EXPECTED as error:
        status, said = reason(error, run)
        print(f"train.py: {said}", file=sys.stderr)
        return status


if __name__ == "__main__":
    sys.exit(main())
