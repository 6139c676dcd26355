"""Which rows and columns the tables have, as data.

tables.py fills them with numbers.  Change a name, a column's digits or the rows of a table here."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

# --- our rows ---------------------------------------------------------------------------------


class Row(NamedTuple):
    """What a row is called, and what it saw in training."""
    name: str
    saw: list[str]


LOGS = "logged replies"
LABELS = "teacher labels on-policy"
LABELS_OF_LOGS = "teacher labels of the logs"
JUDGE = "judge"
JUDGE_BY_TEACHER = "judge (against the teacher's skills)"
END = "success at the end"
TSE = "TSE"
AGENDA = "the hidden agenda"

BY_IMITATION = [LOGS, LABELS, JUDGE]
BY_GOPO = [LOGS, LABELS, JUDGE, END]

ROWS = {
    "untrained_single": Row("Untrained, single agent", []),
    "untrained_dual": Row("Untrained, dual agent (prompted Expert)", []),
    "sft": Row("SFT, single agent", [LOGS]),
    "ppo": Row("PPO, single agent", [LOGS, JUDGE_BY_TEACHER, END, TSE]),
    "memento": Row("Memento", [LOGS, LABELS_OF_LOGS, "success"]),
    "imitation": Row("Imitation (Expert by cross-entropy)", BY_IMITATION),
    "gopo": Row("GOPO", BY_GOPO),
    "gopo_tse": Row("GOPO + terminal TSE", [*BY_GOPO, TSE]),
    "gopo_soft": Row("GOPO, soft constraints (prompt only)", BY_GOPO),
    "gopo_single": Row("GOPO without Expert", [LOGS, JUDGE_BY_TEACHER]),
    "gopo_nano": Row("GOPO, smaller LM", BY_GOPO),
    "single_warm": Row("Single agent after the warm start", [LOGS]),
    "warm_start": Row("Untrained Expert, warm-started LM", [LOGS]),
    "strategy": Row("Expert after the strategy stage, warm-started LM", BY_GOPO),
    "teacher": Row("Teacher's skills, GOPO's LM", [AGENDA, *BY_GOPO]),
    "random": Row("Random skills, GOPO's LM", BY_GOPO),
    "cs_warm": Row("GOPO's Expert, warm-started LM", BY_GOPO),
    "cs_untrained": Row("GOPO's Expert, untrained LM", BY_GOPO),
    "cs_imitation": Row("GOPO's Expert, imitation's LM", BY_GOPO),
    "cs_other": Row("GOPO's Expert, GOPO's LM of another seed", BY_GOPO),
    "ex_untrained": Row("Untrained Expert, GOPO's LM", BY_GOPO),
    "ex_imitation": Row("Imitation's Expert, GOPO's LM", BY_GOPO),
    "ex_memento": Row("Memento as Expert, GOPO's LM", [*BY_GOPO, LABELS_OF_LOGS]),
    "ex_other": Row("GOPO's Expert of another seed, GOPO's LM", BY_GOPO),
    "ex_prompted": Row("The untrained LM prompted as Expert, GOPO's LM", BY_GOPO),
}
# Rows of hosted models by the prefix of their keys, the longest prefix first.
HOSTED = {
    "api_cs_": Row("GOPO's Expert, {} hosted", BY_GOPO),
    "api_ex_": Row("{} hosted as Expert, GOPO's LM", BY_GOPO),
    "api_": Row("{} hosted, both agents", []),
}
REFERENCES = ("single_warm", "warm_start", "strategy", "teacher", "random")
FIGURE3 = ("gopo", "gopo_nano", "gopo_tse")


def prefix_of(row: str) -> str | None:
    """The prefix of a hosted model's row, None of another row.

    >>> prefix_of("api_cs_small"), prefix_of("gopo")
    ('api_cs_', None)
    """
    return next((prefix for prefix in HOSTED if row.startswith(prefix)), None)


def row_of(key: str) -> Row:
    """Name and sources of a row; a hosted model's from its prefix.

    >>> row_of("api_ex_small").name
    "small hosted as Expert, GOPO's LM"
    """
    if key in ROWS:
        return ROWS[key]
    prefix = prefix_of(key)
    name, saw = HOSTED[prefix]
    return Row(name.format(key.removeprefix(prefix)), saw)


# --- the columns ------------------------------------------------------------------------------

def column(key: str, name: str, digits: int, better: str, help: str) -> dict[str, Any]:
    """A column as results.json holds it; better: "high", "low", or "" where neither is."""
    return {"key": key, "name": name, "digits": digits, "better": better, "help": help}


def task_columns() -> list[dict[str, Any]]:
    shares = []
    turns = []
    for i in (1, 2, 3):
        done = f"share of customers for whom task {i} was done"
        when = "the turn it was done in, mean over the customers for whom it was"
        shares.append(column(f"I_{i}", f"I{i}", 2, "high", done))
        turns.append(column(f"N_{i}", f"N{i}", 1, "low", f"{when}: read it beside I{i}"))
    return [*shares, *turns]


TSE_HELP = "Task-focused Sequential Engagement, Eq. 11: which tasks were done, and how soon"
SUCCESS_HELP = "share of customers for whom everything was done"
GRE_HELP = "politeness, product appropriateness and action guidance of a reply, 0-10"
ESNDCG_HELP = (
    "Eq. 5: the skills against the teacher's list of the turn; read F1, exact and len beside it"
)
COLUMNS = [
    column("tse", "TSE", 3, "high", TSE_HELP),
    *task_columns(),
    column("success", "success", 3, "high", SUCCESS_HELP),
    column("turns", "turns", 1, "", "length of a dialogue"),
    column("gre", "GRE*", 2, "high", GRE_HELP),
    column("g_eval", "G-Eval", 3, "high", "1-5, from an LLM judge; a dash without one"),
    column("bleu", "BLEU", 3, "high", "of the corpus, on text with slots, by sacrebleu"),
    column("esndcg", "ESNDCG", 3, "high", ESNDCG_HELP),
    column("f1", "F1", 3, "high", "of the sets of skills"),
    column("exact", "exact", 2, "high", "share of turns with the teacher's very list"),
    column("length", "len", 1, "", "skills a turn"),
    column("r_cs", "R^A*", 3, "high", "Eq. 8"),
    column("vouchers", "vouchers", 2, "low", "given away, a dialogue"),
    column("reply_words", "words", 1, "", "a reply"),
    column("distinct_2", "distinct-2", 3, "high", "different word pairs among all"),
    column("repeated", "repeated", 3, "low", "replies said before"),
    column("violations", "violations", 2, "low", "of the hard constraints, a dialogue"),
    column("tse_2nd_ear", "TSE 2nd ear", 3, "high", "TSE when a separately written ear listens"),
]
# The metrics by which the paper orders rows.
ORDERED = ("tse", "gre", "bleu", "g_eval")


# --- the tables -------------------------------------------------------------------------------

@dataclass(frozen=True)
class Table:
    """One table of the paper.

    rows      our rows -> the paper's row that stands beside each, or None
    hosted    the prefix of further rows
    optional  the table is left out unless it has such further rows
    """
    number: int
    title: str
    rows: dict[str, str | None]
    hosted: str = ""
    notes: tuple[str, ...] = ()
    optional: bool = False


OURS = "GOPO-Qwen3-14B(Ours)"
SUBSTITUTES = (
    "The paper puts hosted models in the agent's place, which needs an API; "
    "for the other agents of ours here it has no figures."
)
NAMESAKES = "The paper's figures stand beside a hosted model of the same name, as DeepSeek-R1."
TABLES = (
    Table(
        1,
        "Methods (Table 1)",
        {
            "untrained_single": None,
            "untrained_dual": "Untrained",
            "sft": "SFT",
            "ppo": "PPO",
            "memento": "Memento",
            "imitation": None,
            "gopo": "GOPO(Ours)",
            "gopo_tse": None,
            "gopo_soft": None,
            **dict.fromkeys(REFERENCES),
        },
        notes=(
            "The paper does not say whether its Untrained is one agent or two; "
            "its figures stand beside the dual agent here.",
            "Below GOPO's variants stand references, no competitors: stages of GOPO's own "
            "training, the teacher (who sees the hidden agenda), and chance.",
        ),
    ),
    Table(
        2,
        "Hosted models (Table 2)",
        {"gopo": OURS},
        hosted="api_",
        notes=(NAMESAKES,),
        optional=True,
    ),
    Table(
        3,
        "Hosted models by G-Eval (Table 3)",
        {"gopo": OURS},
        hosted="api_",
        notes=(NAMESAKES,),
        optional=True,
    ),
    Table(
        4,
        "Model sizes (Table 4)",
        {"gopo_nano": "GOPO-Qwen-7B-Chat", "gopo": "GOPO-Qwen3-14B"},
        notes=(
            "The two sizes: {small_model} and {model}; the paper's smallest and largest "
            "stand beside them, its 8B has no counterpart.",
        ),
    ),
    Table(
        5,
        "With and without the Expert, trained and not (Table 5)",
        {
            "gopo": "Full GOPO",
            "gopo_single": "GOPO w/o Expert Agent",
            "untrained_dual": "Full Baseline",
            "untrained_single": "Baseline w/o Expert Agent",
        },
    ),
    Table(
        6,
        "GOPO's Expert with other Customer Service agents (Table 6)",
        {
            "gopo": "GOPO-Qwen3-14B",
            "cs_warm": None,
            "cs_untrained": None,
            "cs_imitation": None,
            "cs_other": None,
        },
        hosted="api_cs_",
        notes=(SUBSTITUTES,),
    ),
    Table(
        7,
        "GOPO's Customer Service agent with other Experts (Table 7)",
        {
            "gopo": "GOPO-Qwen3-14B",
            "ex_untrained": None,
            "ex_imitation": None,
            "ex_memento": None,
            "ex_other": None,
            "ex_prompted": None,
            "teacher": None,
            "random": None,
        },
        hosted="api_ex_",
        notes=(SUBSTITUTES,),
    ),
)

# --- notes below every table ------------------------------------------------------------------

SHARED = (
    'What all rows share beside the column "saw": perception learned the logged intent and '
    "emotion labels; every LM was pretrained on talk of mixed quality that the phrase book made "
    "from logged states, and every LM but the untrained ones was warm-started on the logged "
    "replies, the Experts of GOPO and imitation on the logged skills. Before the joint steps GOPO, "
    "imitation and Memento play 60 x 128 customers with the phrase book; single agents cannot. "
    "Then GOPO plays 16 customers a step and draws 4 replies to each state, PPO and Memento play "
    "64 and draw one, SFT reads 64 logged dialogues."
)
RULE_JUDGE = (
    "Scored by the rule judge, which is also the training reward; "
    "every row by the skills that the teacher would use"
)
INTERVALS = (
    "Intervals: 95 %, seeds and customers resampled together, {draws} draws. Differences to GOPO: "
    "on the same draws, over the seeds that both have; t: Student's interval over the seeds' "
    "differences, wider where seeds are few. An order agrees or differs where both leave 0 out; "
    "where two rows share one seed, there is no t, and the customers of that seed decide."
)
