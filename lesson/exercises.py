"""Five exercises beside the paper: write again, yourself, one function of this project each.

Every function below has the name and the arguments of the one it replaces.  Fill in the body and run the checks:
    python -m pytest -k exercise             what you have not begun is skipped; a failure says what is wrong and what to read
The project's own version is one file away, as with any book that has its answers at the back.  Each docstring ends with one line
that puts your version in the place of the project's, and one command that shows what it does to training.
Reads nothing, imports nothing of the project.  Try it:  python exercises.py        which of the five you have begun"""
from __future__ import annotations

from typing import Sequence

from torch import Tensor


def esndcg(predicted: Sequence[str], teacher: Sequence[str]) -> float:
    """Exercise 1, Eqs. 2-5: how well do the Expert's skills P = [p_1..p_m] match the teacher's T = [t_1..t_n]?

        Rel(s) = n - index(s in T) + 1 if s is in T, else 0           index counts from 1: the teacher's first skill has Rel n
        DCG(P) = sum_i (2^Rel(p_i) - 1) / log2(i + 1)                 IDCG(T) = DCG(T)        ESNDCG = DCG(P) / IDCG(T)

    The printed formula pays a skill each time it is said: five copies of t_1 score 2.003 (README, GAP-2).  Yours must not: a skill that
    stood earlier in P earns 0, and still takes up its position.  What if P or T is empty?  Both empty: agreement, 1.  One of them: 0.

    predicted  at most 5 skills, in the order chosen, perhaps with repeats
    teacher    at most 5 skills, best first, none twice
    returns    float in [0, 1]

    By hand: T = [a, b, c], P = [a, c, b].  Rel = 3, 1, 2; DCG = 7/1 + 1/1.585 + 3/2 = 9.131; IDCG = 7/1 + 3/1.585 + 1/2 = 9.393; .972.
    Hint: `python rewards.py` prints this sum term by term; scikit-learn's `dcg_score` has the same discount.
    Plug in: below `def esndcg` in rewards.py add the line   from exercises import esndcg
    See:     python train.py --dataset mgshop --replies template --eval_episodes 0       column `esndcg` of metrics.jsonl.  Then put the
             gain Rel in place of 2^Rel - 1 (the check now fails, rightly) and train again: does `exact` rise?  Does `tse`?
    """
    raise NotImplementedError


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> list[float]:
    """Exercise 2, the A-hat of Eq. 7: how much better than expected did each turn turn out?  The paper says "Actor-Critic", no more.

        delta_t = R_t + gamma V_{t+1} - V_t          A_t = delta_t + gamma lam A_{t+1}          A_{T+1} = 0

    A_t needs A_{t+1}, so walk from the last turn to the first.

    rewards  [T] R_1..R_T
    values   [T + 1] V_1..V_{T+1}, what the critic expected.  The last is 0 if the dialogue ended, and V of the last state if it was cut
             off: the recursion need not know which
    gamma    discount of Eq. 1, in [0, 1]
    lam      in [0, 1]: 0 believes the critic (A = delta), 1 believes what happened (A = discounted return - V)
    returns  [T] A_1..A_T, a new list

    By hand: R = (1, 0), V = (.5, .5, 0), gamma = .9, lam = .5.  delta_2 = 0 + 0 - .5 = -.5 = A_2;  delta_1 = 1 + .45 - .5 = .95;
    A_1 = .95 + .9 * .5 * -.5 = .725.
    Hint: `python expert.py` prints this example last; Schulman et al. 2016, arXiv 1506.02438, Eq. 16.
    Plug in: below the imports of gopo.py add the line   from exercises import gae
    See:     python train.py --dataset mgshop --replies template --gae_lambda 0 --eval_episodes 0       and again with 1: columns
             `explained_variance` and `tse` of metrics.jsonl.  Which is noisier, and which learns to apologise first?
    """
    raise NotImplementedError


def policy_loss(logp: Tensor, reward: Tensor, mask: Tensor, group: Tensor | None = None, average: str = "batch") -> Tensor:
    """Exercise 3, Eq. 9b: make replies more likely that earned more, token by token.

        L_p = -E[R^A log pi_A(a^A | s^A)]            log pi_A(a | s) = sum of the log-probabilities of the tokens the agent drew

    As printed, with rewards in [0, 1], every reply is pushed up, bad ones a little less.  So (GAP-6) each reply is compared with the other
    replies to the same state: subtract the mean reward of its group.

    logp     [B, L] log-probability of each token, nats.  Where mask is 0 stands anything, -inf and NaN too: it must not reach the loss
    reward   [B] R^A of each reply
    mask     [B, L] bool, or 0/1: 1 where the agent drew the token (padding and inserted disclaimers are not its doing)
    group    [B] integer id of the state each reply answers, in any order; None: no baseline, as printed
    average  "batch": sum over all tokens of all replies, divided by the number of tokens drawn; "sum" (the paper): summed over tokens,
             averaged over the B replies
    returns  scalar, differentiable in logp

    By hand: logp = [[-1, -2], [-3, 0]], mask = [[1, 1], [1, 0]], reward = [1, 0], group = [7, 7].  Mean reward .5, so the advantages are
    .5 and -.5;  -(.5 * (-1 - 2) - .5 * (-3)) = 0;  over 3 tokens: 0.  With group = None: -(1 * -3 + 0) = 3, over 3 tokens: 1.
    Hint: 0 * -inf is NaN, so set the unmasked away before you multiply.  Two ids are equal where group[:, None] == group[None, :].
    Plug in: below `def policy_loss` in csagent.py add the line   from exercises import policy_loss
    See:     python train.py --dataset mgshop --steps 10 --eval_episodes 0       (some minutes; columns `r_cs` and `grad_norm` of
             metrics.jsonl), and again with --cs_baseline none: what does the gradient's norm do without the baseline?
    """
    raise NotImplementedError


def negative_entropy(logits: Tensor, mask: Tensor, literal: bool = False) -> Tensor:
    """Exercise 4, Eq. 9d: reward the language model for keeping several words open.

        L_d = mean over the agent's tokens of sum_w p(w) log p(w)         p = softmax(logits)

    That is minus the entropy, as the text of the paper asks; the printed equation has the other sign and, minimised, would leave one word
    only (GAP-1).  The hard constraint sets the logits of banned words to -inf: there p = 0 and p log p counts as 0.  Written down naively it
    is 0 * -inf = NaN; repaired after the fact (nan_to_num, where) the value is right and the *gradient* still NaN.

    logits   [B, L, V], V words; -inf where banned, never all of a row
    mask     [B, L] bool, or 0/1: 1 where the agent drew the token; other positions do not count
    literal  True: + entropy, as printed
    returns  scalar in [-log V, 0] nats (literal: [0, log V]); value and gradient finite; the gradient of a banned logit is 0

    By hand: four words, equal logits: p = 1/4, L_d = 4 * 1/4 * log(1/4) = -1.386.  Two of the four banned: -log 2 = -.693.
    Hint: log_softmax, not log(softmax).  Make the forbidden log p harmless *before* it is multiplied.
    Plug in: below `def negative_entropy` in csagent.py add the line   from exercises import negative_entropy
    See:     python train.py --dataset mgshop --steps 10 --eval_episodes 0       column `entropy`; then let literal be True by default and
             raise --lambda_d to .01: how soon do all replies sound alike (`std_quality`, `S_diversity`)?
    """
    raise NotImplementedError


def tse(turns: tuple[int | None, int | None, int | None], weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3), gamma: float = 0.9) -> float:
    """Exercise 5, Eq. 11: the figure the whole paper is about.  Three tasks, done at turns N_1, N_2, N_3; waiting costs.

        printed: TSE = w_1 gamma^(N_1 - 1) + w_2 gamma^(N_2 - N_1 - 1) + w_3 gamma^(N_3 - N_2 - 1)

    Each task is charged for the turns between the one before it and itself.  The formula breaks twice (GAP-3): two tasks in one turn have
    the exponent -1 and push it over 1, and a task that was never done has no N.  Mend it so:
      - a task done by turn N_i is charged max(0, N_i - anchor - 1) turns; anchor is the *latest* turn of the earlier tasks that were done,
        0 if there is none
      - a task that was never done adds 0, and the tasks after it are measured as if it were not there

    turns    completion turns, counted from 1; None = never
    weights  omega_1..omega_3, >= 0
    gamma    decay per turn waited, in (0, 1]; not the discount of Eq. 1
    returns  float in [0, sum of weights]; equals the printed formula whenever N_1 < N_2 < N_3

    By hand, gamma = .9: (1, 2, 4): 1/3 (1 + 1 + .9) = .967.  (1, 1, 1): no turn waited, 1.  (3, None, 4): 1/3 (.81 + 0 + 1) = .603.
    Hint: `python tse.py` prints more of them.  Is earlier always better?  Compare (3, 4, 5) with (2, 4, 5) before you trust the metric.
    Plug in: below `def tse` in tse.py add the line   from exercises import tse
    See:     python mgshop.py --bounds --episodes 50       the column `tse`; then leave out the max(0, ...), as printed: which policies rise,
             and what do they do to rise?
    """
    raise NotImplementedError


EXERCISES = (esndcg, gae, policy_loss, negative_entropy, tse)


if __name__ == "__main__":
    for number, function in enumerate(EXERCISES, 1):
        begun = "NotImplementedError" not in function.__code__.co_names
        print(f"{number}  {function.__name__:17s} {'begun' if begun else 'not begun':10s} {(function.__doc__ or '').splitlines()[0].partition(', ')[2]}")
    print("check them:  python -m pytest -k exercise")
