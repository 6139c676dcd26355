"""Flags of short runs of the trainer, and what tests of runs read and ask."""
import train

SHORT = [
    "--replies", "template", "--dialogues", "4", "--strategy_steps", "0", "--eval_every", "3"]
SHORT_LM = [
    "--strategy_steps", "1", "--pretrain_steps", "2", "--warm_steps", "2", "--sft_batch", "8",
    "--dialogues", "2", "--group", "2", "--max_new_tokens", "24"]


def rows_of(run) -> str:
    """metrics.jsonl as text: equal for equal runs."""
    return (run / "metrics.jsonl").read_text()


def refused(arguments, capsys) -> str:
    """What train.py says when it refuses."""
    assert train.main(arguments) == 2
    return capsys.readouterr().err
