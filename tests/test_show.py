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
