"""show.py: what is printed."""
from judge import RuleJudge
from show import COLUMNS, print_table


def number(x):
    return {"mean": x, "low": x, "high": x}


def test_a_difference_between_the_ears_is_flagged(capsys):
    row = {key: number(0.5) for key in (*COLUMNS, "unscored")}

    def printed(second_ear):
        table = {"gopo": row | {"tse_2nd_ear": number(second_ear)}}
        print_table(table, True, RuleJudge({}), True)
        return capsys.readouterr().out

    assert "FLAG" in printed(0.44)
    assert "FLAG" not in printed(0.46)


def test_one_dialogue_has_no_interval(capsys):
    row = {key: number(0.5) for key in (*COLUMNS, "unscored")}
    print_table({"gopo": row | {"tse": {"mean": 0.5, "low": None, "high": None}}}, False,
                RuleJudge({}), True)
    said = capsys.readouterr().out
    assert "— (one dialogue has no interval)" in said
    assert "0.500," not in said
