"""show.py: what is printed."""
from data import Episode, Observation, Outcome, Step
from judge import RuleJudge
from show import COLUMNS, decisions, print_price, print_table


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


def test_a_decision_is_what_the_customer_saw():
    def seen(vouchers):
        return Observation("", {}, outcome=Outcome(vouchers=vouchers))

    def step(vouchers):
        return Step(seen(vouchers), None, (None, None), (), None, [], None, [])

    talk = Episode(0, None, seen(1), [step(0), step(0), step(1)])
    assert decisions(talk) == ["chat", "voucher", "chat"]
    # of a log nobody counts vouchers
    assert decisions(Episode(0, None, seen(None), [step(None)])) == ["chat"]


def test_the_price_of_the_last_step_is_said_where_there_was_one(capsys):
    print_price([{"step": 1, "lambda": 0.0}, {"step": 2, "lambda": 0.25, "price_in_stars": 1.0}])
    assert "step 2 of training a voucher cost lambda 0.250, 1.00 stars" in capsys.readouterr().out
    print_price([{"step": 1, "reward": 0.5}])
    print_price([])
    assert capsys.readouterr().out == ""
