"""The flags of a language model that answers customers: what it is, how and what it learns.

    LMConfig     the model, its prompt and its decoding        read by lm/
    AgentConfig  the loss of Eqs. 9a-9d and its optimiser      read by csagent.py
    WarmConfig   supervised training before GOPO               read by start/

The paper gives none of these numbers (GAP-9).  Some defaults depend on the model: a field that is
None stands for such a default.  LMConfig fills in its own; `settled_for(model)` does it for the
other two. `configs_of` reads all three back from a run's config.json."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from data import DataError, opt
from infra.flags import refuse_below, refuse_not_positive, refuse_other_words, sound

Config = TypeVar("Config")
# Models built here, not loaded: hidden width, layers.
BUILT = {"tiny": (192, 3), "nano": (128, 2)}
# SmolLM2-135M-Instruct; lm/found.py says where it is looked for.
SMOLLM2 = "smollm2"


def with_defaults(config: Config, defaults: Mapping[str, Any]) -> Config:
    """The same config, each field that is None replaced by its default."""
    missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    return replace(config, **missing)


@dataclass(frozen=True)
class LMConfig:
    """The language model: what it is, what it reads and how it speaks."""
    model: str = opt(
        "tiny",
        "tiny or the smaller nano (built here from the training split), smollm2 (135 M "
        "parameters, for a laptop), a Hugging Face id, a local folder or a .gguf file [paper: "
        "Qwen-7B-Chat, Qwen3-8B, Qwen3-14B]",
    )
    quantise: str = opt(
        "auto",
        "nf4: frozen 4-bit weights, double quantisation (QLoRA); none: as saved; "
        "auto: nf4 for all but tiny and nano",
    )
    lora_rank: int | None = opt(
        None,
        "rank of the LoRA adapter on all linear layers, which alone is trained; "
        "0 = train the whole model; default 16, tiny 0",
    )
    gradient_checkpointing: bool | None = opt(
        None,
        "recompute activations in the backward pass: less memory, about a third slower; "
        "default: with nf4",
    )
    prompt_gradient: bool = opt(
        True,
        "false: prompts are read without a gradient, replies as before: about half the time of a "
        "supervised step; not with gradient checkpointing, nor for a model built here",
    )
    temperature: float = opt(
        1.0, "of sampling; log pi in the loss is the scaled one that was sampled from"
    )
    max_new_tokens: int = opt(
        48, "longest reply, in tokens; a slot left open at the end is completed beyond it"
    )
    user_tokens: int = opt(256, "a longer customer message loses its middle")
    constraints: str = opt(
        "hard", "hard: enforced while decoding; soft: only asked for in the prompt"
    )

    def __post_init__(self):
        self._settle()
        words = {"constraints": ("hard", "soft"), "quantise": ("nf4", "none")}
        refuse_other_words(self, words)
        refuse_not_positive(self, "temperature")
        refuse_below(self, {"max_new_tokens": 1, "user_tokens": 8, "lora_rank": 0})
        if self.model in BUILT and (self.quantise == "nf4" or self.lora_rank):
            raise ValueError(
                "--quantise nf4 and --lora_rank are for models that have learned something: "
                f"--model {self.model} starts from nothing and is trained whole"
            )
        if self.quantise == "nf4" and not self.lora_rank:
            raise ValueError(
                "--quantise nf4 keeps the weights as they are, so an adapter must learn: "
                "use --lora_rank 16, or --quantise none"
            )

        if not self.prompt_gradient and (self.model in BUILT or self.gradient_checkpointing):
            raise ValueError(
                "--prompt_gradient false is for loaded models without --gradient_checkpointing, "
                "which reads a prompt and its replies in one pass"
            )

    def _settle(self) -> None:
        """Fills in the defaults that depend on the model; the class is frozen to all others."""
        quantise, rank = ("none", 0) if self.model in BUILT else ("nf4", 16)
        if self.quantise == "auto":
            object.__setattr__(self, "quantise", quantise)
        if self.lora_rank is None:
            object.__setattr__(self, "lora_rank", rank)
        if self.gradient_checkpointing is None:
            object.__setattr__(self, "gradient_checkpointing", self.quantise == "nf4")


@dataclass(frozen=True)
class AgentConfig:
    """How the Customer Service Agent learns by Eqs. 9a-9d."""
    group: int | None = opt(
        None, "replies per state; their mean reward is the baseline; default 4, 8 with --algo "
        "more and dpo")
    agent_lr: float = opt(2e-4, "AdamW step size of the policy gradient")
    micro_batch: int | None = opt(
        None,
        "states per forward pass of the update; changes memory, not the result; "
        "default 4 for tiny, 1 for others",
    )
    lambda_p: float = opt(1.0, "weight of 9b, > 0")
    lambda_s: float = opt(0.2, "weight of 9c, the distance of a reply from its skills")
    lambda_d: float = opt(
        0.001,
        "weight of 9d, the negative entropy; at 0.01 the entropy of the tiny model once "
        "ran away within ten steps",
    )
    cs_baseline: str = opt(
        "group",
        "group: rewards centred among the replies to one state; none: Eq. 9b as printed",
    )
    cs_average: str = opt(
        "batch", "batch: mean over the batch's tokens; sum: Eq. 9b as printed"
    )

    def __post_init__(self):
        words = {"cs_baseline": ("group", "none"), "cs_average": ("batch", "sum")}
        refuse_other_words(self, words)
        refuse_not_positive(self, "agent_lr", "lambda_p")
        if self.group == 1 and self.cs_baseline == "group":
            raise ValueError(
                "--group 1 leaves nothing after subtracting its own mean: "
                "use --group 2 or more, or --cs_baseline none"
            )
        refuse_below(self, {"group": 1, "micro_batch": 1, "lambda_s": 0, "lambda_d": 0})

    def settled_for(self, model: str) -> AgentConfig:
        """The config in which every default that depends on the model is a number."""
        return with_defaults(self, {"group": 4, "micro_batch": 4 if model in BUILT else 1})


@dataclass(frozen=True)
class WarmConfig:
    """Supervised training: pretraining, the warm start, and the baseline that goes on with it."""
    pretrain_steps: int = opt(
        120, "tiny and nano only: steps on talk of mixed quality, so that 'untrained' can speak"
    )
    warm_steps: int = opt(
        250,
        "supervised steps before GOPO; what is kept is the state with the lowest dev loss "
        "on the way",
    )
    warm_dialogues: int | None = opt(
        None, "logged dialogues that the warm start may read; 0 = no warm start; default all"
    )
    sft_lr: float | None = opt(
        None,
        "AdamW step size of pretraining and of the warm start; default 2e-3 for tiny, "
        "2e-4 for others",
    )
    sft_batch: int | None = opt(
        None, "replies per supervised step; default 64 for tiny, 16 for others"
    )
    dev_pairs: int = opt(256, "replies of the dev split in a look at the warm start's dev loss")

    def __post_init__(self):
        refuse_not_positive(self, "sft_lr")
        least = {"pretrain_steps": 0, "warm_steps": 0, "warm_dialogues": 0, "sft_batch": 1,
                 "dev_pairs": 1}
        refuse_below(self, least)

    def settled_for(self, model: str) -> WarmConfig:
        """The config in which every default that depends on the model is a number."""
        defaults = {"sft_lr": 2e-4, "sft_batch": 16}
        if model in BUILT:
            defaults = {"sft_lr": 2e-3, "sft_batch": 64}
        return with_defaults(self, defaults)


# ------------------------------------------------------------------------------ config.json
# Fields that older runs have and this code has not: name -> the value that means what is done now.
REMOVED: dict[str, Any] = {}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all three classes; a run of before they were three kept them under "agent"."""
    return {**config.get("lm", {}), **config["agent"], **config.get("warm", {})}


def picked(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A config of this class from those of the values that are its fields."""
    names = {field.name for field in fields(kind)}
    return sound(kind, {name: value for name, value in values.items() if name in names})


def configs_of(config: Mapping[str, Any]) -> tuple[LMConfig, AgentConfig, WarmConfig]:
    """What a run was made with, from its config.json, old or new.

    raises  DataError that names a value which this code no longer knows
    """
    values = flat(config)
    known: set[str] = set()
    for kind in (LMConfig, AgentConfig, WarmConfig):
        known.update(field.name for field in fields(kind))
    for name, value in values.items():
        if name in known or (name in REMOVED and value == REMOVED[name]):
            continue
        raise DataError(f"config.json: this version has no setting {name} = {value!r}")
    lm = picked(LMConfig, values)
    agent = picked(AgentConfig, values).settled_for(lm.model)
    warm = picked(WarmConfig, values).settled_for(lm.model)
    return lm, agent, warm
