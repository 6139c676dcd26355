"""Flags of short runs of the trainer, and what tests of runs read and ask."""
import train

# The Expert's step size falls over as many rollouts, however long a run is.
SHORT = [
    "--replies", "template", "--dialogues", "4", "--strategy_steps", "0", "--eval_every", "3",
    "--expert_warm", "1", "--expert_decay", "4", "--expert_minibatch", "8",
    "--precision", "fp32"]
SHORT_LM = [
    "--expert_warm", "1", "--strategy_dialogues", "4", "--precision", "fp32",
    "--strategy_steps", "1", "--pretrain_steps", "2", "--warm_steps", "2", "--sft_batch", "8",
    "--dialogues", "2", "--group", "2", "--max_new_tokens", "24"]


def rows_of(run) -> str:
    """metrics.jsonl as text: equal for equal runs."""
    return (run / "metrics.jsonl").read_text()


def refused(arguments, capsys) -> str:
    """What train.py says when it refuses."""
    assert train.main(arguments) == 2
    return capsys.readouterr().err
