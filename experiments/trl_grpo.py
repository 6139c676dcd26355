"""TRL's GRPOTrainer on mgshop: an outside baseline, of which only shop and model are ours.

One language model, no skills, no Expert, no judge, no constraints.  It first reads the teacher's
replies (TRL's SFTTrainer), then GRPO learns from TSE alone.  A rollout is a whole dialogue: a
prompt names a customer, and the completion holds all that both sides say after the first message.
`env_mask` is 1 where the model spoke, so that it is never trained on the customer's words.

TRL is not required by anything else here: pip install trl  (1.16 was tried).
Try it:  python -m experiments.trl_grpo --steps 4"""
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data import load
from infra.terminal import flush
from lm.models import build_tiny
from shop.customer import Shop
from shop.tools import shown
from start.pairs import slot_names, vocabulary_texts
from tse import tse

LONGEST = 48                                     # tokens of a reply
WINDOW = 3600                                    # tokens of a dialogue that the model still reads
HELD_OUT = 20                                    # test customers
TAUGHT = 100                                     # dialogues of the teacher, of each three turns
TURNS = 3


class Talk:
    """One dialogue as tokens: a prompt, then replies and what the customer says to them."""

    def __init__(self, tokenizer: Any, split: str, customer: int):
        self.tokenizer = tokenizer
        self.shop = Shop(0, split, customer)
        self.seen = self.shop.reset()
        self.prompt = self._said(self.seen)
        self.completion: list[int] = []
        self.by_model: list[int] = []            # 1: the model's token, 0: the customer's
        self.logprobs: list[float] = []

    def _said(self, seen: Any) -> list[int]:
        message = [{"role": "user", "content": shown(seen)}]
        text = self.tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True)
        return self.tokenizer.encode(text, add_special_tokens=False)

    @property
    def over(self) -> bool:
        full = len(self.prompt) + len(self.completion) > WINDOW
        return self.seen.terminated or self.seen.truncated or full

    def reply(self, ids: list[int], logprobs: list[float]) -> None:
        """The model's reply, and the customer's answer to it unless the dialogue is over."""
        self._add(ids, 1, logprobs)
        self.seen = self.shop.step(self.tokenizer.decode(ids, skip_special_tokens=True))
        if not self.over:
            answer = self._said(self.seen)
            self._add(answer, 0, [0.0] * len(answer))

    def _add(self, ids: list[int], by_model: int, logprobs: list[float]) -> None:
        self.completion += ids
        self.by_model += [by_model] * len(ids)
        self.logprobs += logprobs

    @property
    def tse(self) -> float:
        return tse(self.seen.outcome.completed)

    def fields(self) -> dict[str, Any]:
        """What TRL wants to know of a rollout; `tse` goes on to the reward."""
        return {
            "prompt_ids": self.prompt,
            "completion_ids": self.completion,
            "logprobs": self.logprobs,
            "env_mask": self.by_model,
            "tse": self.tse,
        }


@torch.no_grad()
def play(model: Any, talks: Sequence[Talk], sample: bool) -> None:
    """All talks to their ends, turn by turn, those that go on in one batch."""
    going = list(talks)
    while going:
        tokenizer = going[0].tokenizer
        ids = [talk.prompt + talk.completion for talk in going]
        batch = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        how: dict[str, Any] = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
        drawn = model.generate(
            **batch, max_new_tokens=LONGEST, pad_token_id=tokenizer.pad_token_id,
            return_dict_in_generate=True, output_logits=True, **how)
        logprobs = torch.stack(drawn.logits, 1).float().log_softmax(-1)      # (B, L, V)
        new = drawn.sequences[:, batch["input_ids"].shape[1]:]               # (B, L)
        chosen = logprobs.gather(-1, new[..., None])[..., 0]                 # (B, L)
        for talk, row, chances in zip(going, new.tolist(), chosen.tolist()):
            length = len(row)
            if tokenizer.eos_token_id in row:
                length = row.index(tokenizer.eos_token_id) + 1
            talk.reply(row[:length], chances[:length])
        going = [talk for talk in going if not talk.over]


# --- what TRL calls -------------------------------------------------------------------------------

def rollout(prompts: list, trainer: Any) -> dict[str, list]:
    """`rollout_func`: a dialogue for each prompt, with the customer whom it names."""
    numbers = [int(prompt[-1]["content"].split()[-1]) for prompt in prompts]
    talks = [Talk(trainer.processing_class, "train", number) for number in numbers]
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.eval()
    play(model, talks, sample=True)
    model.train()
    found: dict[str, list] = {}
    for talk in talks:
        for name, value in talk.fields().items():
            found.setdefault(name, []).append(value)
    return found


def tse_of(completions: list, tse: list[float], **_: Any) -> list[float]:
    """The reward: TSE of each dialogue."""
    return tse


def taught_pairs(dataset: Any, dialogues: int) -> dict[str, list]:
    """Prompts and completions of the teacher's dialogues: the talk so far, and the next reply."""
    rows: dict[str, list] = {"prompt": [], "completion": []}
    for dialogue in dataset.train[:dialogues]:
        said: list[dict] = []
        for turn in dialogue.turns[:TURNS]:
            facts = [f"{name}: {value}" for name, value in turn.context.items()]
            text = "\n".join([turn.user, "", *facts]).strip()
            said = [*said, {"role": "user", "content": text}]
            answer = {"role": "assistant", "content": turn.reply}
            rows["prompt"].append(said)
            rows["completion"].append([answer])
            said = [*said, answer]
    return rows


def held_out(model: Any, tokenizer: Any) -> float:
    """Mean TSE over test customers, most probable tokens."""
    talks = [Talk(tokenizer, "test", number) for number in range(HELD_OUT)]
    model.eval()
    play(model, talks, sample=False)
    return sum(talk.tse for talk in talks) / len(talks)


def run(steps: int, sft_steps: int, seed: int, folder: Path) -> list[dict]:
    """Trains; returns what GRPOTrainer logged."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
    shop = load("mgshop")
    model, tokenizer = build_tiny(vocabulary_texts(shop), slot_names(shop), seed)
    common: dict[str, Any] = {
        "use_cpu": True, "bf16": False, "report_to": "none", "seed": seed, "save_strategy": "no",
        "disable_tqdm": True, "gradient_checkpointing": False, "output_dir": str(folder),
    }
    taught = Dataset.from_dict(taught_pairs(shop, TAUGHT))
    sft = SFTConfig(
        max_steps=sft_steps, per_device_train_batch_size=8, learning_rate=3e-3, max_length=1024,
        logging_steps=max(1, sft_steps // 4), **common)
    SFTTrainer(model=model, args=sft, train_dataset=taught, processing_class=tokenizer).train()
    print(f"after reading the teacher: TSE {held_out(model, tokenizer):.3f} on {HELD_OUT} test "
          "customers")
    flush()
    prompts = [[{"role": "user", "content": f"customer {n}"}] for n in range(1000)]
    grpo = GRPOConfig(
        max_steps=steps, per_device_train_batch_size=16, num_generations=8, learning_rate=3e-4,
        max_completion_length=WINDOW, logging_steps=1, **common)
    trainer = GRPOTrainer(
        model=model, args=grpo, train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer, reward_funcs=tse_of, rollout_func=rollout)
    started = time.process_time()
    trainer.train()
    logged = [row for row in trainer.state.log_history if "reward" in row]
    for row in logged:
        shown = ("reward", "reward_std", "completions/mean_length", "entropy", "grad_norm")
        cells = [f"{name} {float(row[name]):.3f}" for name in shown if name in row]
        print(f"step {row['step']}: " + "  ".join(cells))
    print(f"after {steps} steps of GRPO: TSE {held_out(model, tokenizer):.3f}   "
          f"({time.process_time() - started:.0f} processor seconds)")
    return logged


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=4, help="steps of GRPO (default 4)")
    parser.add_argument("--sft_steps", type=int, default=60, help="steps of SFT before (60)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        import trl  # noqa: F401
    except ImportError:
        print("trl_grpo: this needs the package trl: pip install trl", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        run(args.steps, args.sft_steps, args.seed, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
