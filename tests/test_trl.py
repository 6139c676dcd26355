"""The shop in the hands of TRL: rollouts as tokens, and the class as its trainer takes it.

TRL is no requirement: where it is missing, what needs it is skipped (pip install trl)."""
import importlib.util
import sys
from pathlib import Path

import pytest

from data import fill, load
from experiments import trl_grpo
from experiments.trl_grpo import Talk, main, taught_pairs
from lm.models import build_tiny
from shop.catalogue import template
from shop.customer import Shop
from shop.tools import ShopTools, shown
from start.pairs import vocabulary_texts
from tests.conftest import small_shops
from tests.customers import by_teacher
from tse import tse

needs_trl = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not installed: pip install trl")


@pytest.fixture(scope="module")
def tiny():
    """(model, tokenizer)"""
    with small_shops():
        shop = load("mgshop")
    return build_tiny(vocabulary_texts(shop), ["price_1", "product_1"], 0, 64, 1)


def test_a_talk_is_a_prompt_and_what_both_say_after_it(tiny):
    tokenizer = tiny[1]
    talk = Talk(tokenizer, "train", 3)
    shop = Shop(0, "train", 3)
    seen = shop.reset()
    said = f"<|user|>{shown(seen)}<|end|><|assistant|>"
    assert tokenizer.decode(talk.prompt) == said
    tokens = 0
    while not talk.over:
        reply = fill(by_teacher(shop, seen), seen.context)
        ids = tokenizer.encode(reply, add_special_tokens=False) + [tokenizer.eos_token_id]
        talk.reply(ids, [-1.0] * len(ids))
        tokens += len(ids)
        seen = shop.step(reply)
        said += f"{reply}<|end|>"
        if not (seen.terminated or seen.truncated):
            said += f"<|user|>{shown(seen)}<|end|><|assistant|>"
    assert tokenizer.decode(talk.prompt + talk.completion) == said
    assert sum(talk.by_model) == tokens          # trained on: the model's words alone
    assert talk.logprobs == [-1.0 * own for own in talk.by_model]
    assert talk.tse == tse(seen.outcome.completed) > 0.8


def test_rollouts_of_one_prompt_are_of_one_customer(tiny):
    class Trainer:
        model, processing_class = tiny

        class accelerator:
            unwrap_model = staticmethod(lambda model: model)

    prompts = [[{"role": "user", "content": f"customer {n}"}] for n in (5, 5, 6)]
    found = trl_grpo.rollout(prompts, Trainer)
    assert found["prompt_ids"][0] == found["prompt_ids"][1] != found["prompt_ids"][2]
    for ids, *others in zip(found["completion_ids"], found["logprobs"], found["env_mask"]):
        assert {len(ids)} == set(map(len, others))
    assert all(0 <= value <= 1 for value in found["tse"])


def test_pairs_of_the_teacher_end_with_the_customer():
    with small_shops():
        rows = taught_pairs(load("mgshop"), 4)
    for prompt, completion in zip(rows["prompt"], rows["completion"]):
        assert [message["role"] for message in prompt[:3]] == ["user", "assistant", "user"][
            :len(prompt)]
        assert completion[0]["role"] == "assistant"


def test_without_trl_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trl", None)
    assert main([]) == 2
    assert capsys.readouterr().err == "trl_grpo: this needs the package trl: pip install trl\n"


@needs_trl
def test_the_trainer_takes_the_class(tiny, tmp_path):
    """By its own rules: one tool, one reward, and a customer of its own for each rollout."""
    import trl
    from datasets import Dataset
    model, tokenizer = tiny
    kept = tokenizer.chat_template
    templates = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen3.jinja").read_text()
    rows = {"prompt": [[{"role": "user", "content": "Serve."}]] * 8, "customer": list(range(8))}
    try:
        trainer = trl.GRPOTrainer(
            model=model, processing_class=tokenizer, environment_factory=ShopTools,
            train_dataset=Dataset.from_dict(rows),
            args=trl.GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False,
                                per_device_train_batch_size=4, num_generations=4,
                                report_to="none"))
    finally:
        tokenizer.chat_template = kept
    assert [tool.__name__ for tool in trainer.tools] == ["reply"]
    assert trainer.reward_func_names == ["ShopTools"]
    shop, = trainer._environment_pool[None]
    assert shop.reset(**trainer.train_dataset[3]) == shown(Shop(0, "train", 3).reset())
    teacher = shop._seen.labels.teacher
    shop.reply(template(teacher, shop._seen.context, shop._customer.rng("wording", 0)))
    assert trainer.reward_funcs[0](environments=[shop]) == [shop.get_reward()]
