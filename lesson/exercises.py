"""Six exercises to do while you read the paper: write six functions of this project anew.

Every function below has the name and the arguments of the function that it replaces.  Fill in its
body and run the checks:
    python -m pytest -k exercise
What you have not begun is skipped; a failure says what is wrong and what to read.  The project's
own version is one file away, as in a book with its answers at the back.  Each docstring ends with
the line that puts your version in the place of the project's, and with a command that shows what
it does to training.

Imports nothing of the project.
Try it:  python -m lesson.exercises        which of the six you have begun
"""
from __future__ import annotations

from typing import Sequence

from torch import Tensor


def esndcg(predicted: Sequence[str], teacher: Sequence[str]) -> float:
    """Exercise 1, Eqs. 2-5: how well does P = [p_1..p_m] match the teacher's T = [t_1..t_n]?

        Rel(s) = n - index(s in T) + 1 if s is in T, else 0
        DCG(P) = sum_i (2^Rel(p_i) - 1) / log2(i + 1)
        IDCG(T) = DCG(T)
        ESNDCG = DCG(P) / IDCG(T)

    The index counts from 1, so the teacher's first skill has Rel = n.  As printed, a skill earns
    its gain each time it occurs: five copies of t_1 score 2.003 (README, GAP-2).  Yours must not
    allow this: a repeat earns 0, and it still takes up its position.  Two empty sequences agree:
    the value is 1.  If only one is empty, it is 0.

    predicted  at most 5 skills, in the order chosen, perhaps with repeats
    teacher    at most 5 skills, best first, none twice
    returns    float in [0, 1]

    By hand: T = [a, b, c], P = [a, c, b], so Rel = 3, 1, 2.
             DCG = 7/1 + 1/1.585 + 3/2 = 9.131;  IDCG = 7/1 + 3/1.585 + 1/2 = 9.393;  ESNDCG = .972
    Hint:    `python rewards.py` prints this sum term by term; scikit-learn's `dcg_score` has the
             same discount.
    Plug in: below `def esndcg` in rewards.py add
                 from lesson.exercises import esndcg
                 def prefix_esndcg(P, T): return [esndcg(P[:i], T) for i in range(len(P) + 1)]
    See:     python train.py --dataset mgshop --replies template --eval_episodes 0
             Read the column `esndcg` of metrics.jsonl.  Then put the gain Rel in the place of
             2^Rel - 1 (the check now fails, as it should) and train again: does `exact` rise?
             Does `tse`?
    """
    raise NotImplementedError


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float,
        slips: Sequence[bool] = ()) -> list[float]:
    """Exercise 2, the A-hat of Eq. 7: how much better than expected did each turn turn out?

        delta_t = R_t + gamma V_{t+1} - V_t
        A_t = delta_t + gamma lam A_{t+1},  A_{T+1} = 0

    The paper says "Actor-Critic" and no more.  A_t needs A_{t+1}, so walk from the last turn to the
    first.  Begin without slips: the first three checks need none.

    rewards  [T] R_1..R_T
    values   [T + 1] V_1..V_{T+1}, what the critic expected.  The last is 0 if the dialogue ended,
             and V of the last state if it was cut off: the recursion need not know which
    gamma    discount of Eq. 1, in [0, 1]
    lam      in [0, 1]: 0 believes the critic (A = delta), 1 believes what happened (A = discounted
             return - V)
    slips    [T] True where skills were played that the policy had not chosen; () = nowhere.  Such
             a turn is not its doing, so A_t = 0.  The turn before it stops there: its A is its
             delta, which holds V of the slip's state in place of all that came after
    returns  [T] A_1..A_T, a new list

    By hand: R = (1, 0), V = (.5, .5, 0), gamma = .9, lam = .5.
             A_2 = delta_2 = 0 + 0 - .5 = -.5;  delta_1 = 1 + .45 - .5 = .95;
             A_1 = .95 + .9 * .5 * -.5 = .725
             If turn 2 was a slip: A_2 = 0 and A_1 = delta_1 = .95
    Hint:    `python expert.py` prints this example; Schulman et al. 2016, arXiv 1506.02438, Eq. 16.
    Plug in: below `def gae` in expert.py add the line   from lesson.exercises import gae
    See:     python train.py --dataset mgshop --replies template --gae_lambda 0 --eval_episodes 0
             Then again with --gae_lambda 1.  Read the columns `explained_variance` and `tse` of
             metrics.jsonl: which run is noisier, and which ends with the higher TSE?
    """
    raise NotImplementedError


def policy_loss(
    logp: Tensor,
    reward: Tensor,
    mask: Tensor,
    group: Tensor | None = None,
    average: str = "batch",
) -> Tensor:
    """Exercise 3, Eq. 9b: raise the probability of replies that earned much, token by token.

        L_p = -E[R^A log pi_A(a^A | s^A)]
        log pi_A(a | s) = the sum of the log-probabilities of the tokens that the agent drew

    As printed, with rewards in [0, 1], every reply is pushed up, and a bad one a little less.  Here
    each reply is compared with the other replies to the same state: subtract the mean reward of its
    group (GAP-6).

    logp     [B, L] log-probability of each token, nats.  Where mask is 0 it holds anything, also
             -inf and NaN, which must not reach the loss
    reward   [B] R^A of each reply
    mask     [B, L] bool, or 0/1: 1 where the agent drew the token; 0 for padding and for
             disclaimers that were inserted
    group    [B] integer id of the state that each reply answers, in any order; None: no baseline,
             as printed
    average  "batch": sum over all tokens of all replies, divided by the number of tokens drawn;
             "sum" (the paper): summed over tokens, averaged over the B replies
    returns  scalar, differentiable in logp

    By hand: logp = [[-1, -2], [-3, 0]], mask = [[1, 1], [1, 0]], reward = [1, 0].
             group = [7, 7]: the mean reward is .5, the advantages are .5 and -.5, and
             -(.5 * (-1 - 2) - .5 * (-3)) = 0; over 3 tokens: 0.
             group = None: -(1 * -3 + 0) = 3; over 3 tokens: 1.
    Hint:    0 * -inf is NaN, so replace what is masked before you multiply.  Two ids are equal
             where group[:, None] == group[None, :].
    Plug in: below `def policy_loss` in csagent.py add the line
                 from lesson.exercises import policy_loss
    See:     python train.py --dataset mgshop --steps 10 --eval_episodes 0
             This takes some minutes.  Then again with --cs_baseline none.  Read the columns `r_cs`
             and `grad_norm` of metrics.jsonl: what does the norm do without the baseline?
    """
    raise NotImplementedError


def negative_entropy(logits: Tensor, mask: Tensor, literal: bool = False) -> Tensor:
    """Exercise 4, Eq. 9d: reward the language model for keeping several words open.

        L_d = mean over the agent's tokens of sum_w p(w) log p(w),  p = softmax(logits)

    This is minus the entropy, as the text of the paper asks.  The printed equation has the other
    sign; minimised, it would leave one word only (GAP-1).  The hard constraint sets the logits of
    banned words to -inf; there p = 0, and p log p counts as 0.  Written down naively this is
    0 * -inf = NaN.  If you repair the product (nan_to_num, where), the value is right and the
    *gradient* still NaN.

    logits   [B, L, V], V words; -inf where banned, but never a whole row
    mask     [B, L] bool, or 0/1: 1 where the agent drew the token; other positions do not count
    literal  True: + entropy, as printed
    returns  scalar in [-log V, 0] nats (literal: [0, log V]); value and gradient are finite; the
             gradient of a banned logit is 0

    By hand: four words, equal logits: p = 1/4, L_d = 4 * 1/4 * log(1/4) = -1.386.
             Two of the four banned: -log 2 = -.693.
    Hint:    log_softmax, not log(softmax).  Make a banned word's log p harmless *before* you
             multiply with it.
    Plug in: below `def negative_entropy` in csagent.py add the line
                 from lesson.exercises import negative_entropy
    See:     python train.py --dataset mgshop --steps 10 --eval_episodes 0
             Read the column `entropy`.  Then let literal be True by default and raise --lambda_d to
             .01: how soon do all replies sound alike (`std_quality`, `S_diversity`)?
    """
    raise NotImplementedError


def tse(
    turns: tuple[int | None, int | None, int | None],
    weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
    gamma: float = 0.9,
) -> float:
    """Exercise 5, Eq. 11: the paper's main metric.  Three tasks, done in turns N_1, N_2, N_3.

        TSE = w_1 gamma^(N_1 - 1) + w_2 gamma^(N_2 - N_1 - 1) + w_3 gamma^(N_3 - N_2 - 1)

    Each task is charged for the turns between the task before it and itself.  The formula breaks
    twice (GAP-3).  Two tasks in one turn have the exponent -1 and push it over 1.  A task that was
    never done has no N.  Mend it like this:
      - a task done in turn N_i is charged max(0, N_i - anchor - 1) turns, where anchor is the
        *latest* turn of the earlier tasks that were done, or 0 if there is none
      - a task that was never done adds 0, and later tasks are measured as if it were not there

    turns    completion turns, counted from 1; None = never
    weights  omega_1..omega_3, >= 0
    gamma    decay per turn waited, in (0, 1]; not the discount of Eq. 1
    returns  float in [0, sum of weights]; equals the printed formula whenever N_1 < N_2 < N_3

    By hand: gamma = .9.  (1, 2, 4): 1/3 (1 + 1 + .9) = .967.  (1, 1, 1): no turn waited, 1.
             (3, None, 4): 1/3 (.81 + 0 + 1) = .603.
    Hint:    `python tse.py` prints more of them.  Is earlier always better?  Compare (3, 4, 5) with
             (2, 4, 5) before you trust the metric.
    Plug in: below `def tse` in tse.py add the line   from lesson.exercises import tse
    See:     python -m shop.mgshop --bounds --episodes 50
             Read the column `tse`.  Then leave out the max(0, ...), as printed: which policies
             rise, and what do they do to rise?
    """
    raise NotImplementedError


def clipped_loss(logp: Tensor, old: Tensor, advantage: Tensor, entropy: Tensor, alpha: float,
                 clip: float) -> Tensor:
    """Exercise 6, Eq. 7 for turns that are learned from more than once.

        L = -E[sum_i min(rho_i A_i, clamp(rho_i, 1 - clip, 1 + clip) A_i)] - alpha E[sum_i H_i]
        rho_i = p(a_i) now / p(a_i) when it was played

    Eq. 7 as printed holds for the policy that played the turns.  After one step of Adam that policy
    is gone.  The *ratio* rho corrects for this: it is 1 for the policy that played, and there the
    gradient is Eq. 7's own.  The clamp and the minimum bound the correction: once a pick has become
    more probable by the share `clip`, a good advantage pushes it no further; likewise for one that
    has become less probable, and a bad advantage.  A pick that moved the *wrong* way is never
    clipped: it has to come back.

    logp       [B, S] log-probability of each pick now, nats; B turns, S picks in a turn.  Where no
               pick was made, logp, old, advantage and entropy are 0
    old        [B, S] the same when the turn was played.  No gradient flows through it
    advantage  [B, S] A-hat of each pick.  No gradient flows through it
    entropy    [B, S] entropy of the distribution of each pick, nats, >= 0; its gradient counts
    alpha      weight of the entropy, >= 0
    clip       > 0
    returns    scalar, differentiable in logp and entropy: summed over picks, averaged over turns

    By hand: two turns of one pick: logp = -1, -3; A = 1, -2; H = .4, .6; alpha = .1; clip = .2.
             Each pick was half as probable when it was played, so rho = 2, 2.
             The first gains min(2 * 1, 1.2 * 1) = 1.2, the second min(2 * -2, 1.2 * -2) = -4, and
             L = -(1.2 - 4) / 2 - .1 * (.4 + .6) / 2 = 1.35
    Hint:    `python expert.py` prints this example.  A ratio is exp of a difference of logarithms.
             Draw rho A and the clamped one over rho, for A = 1 and for A = -1; where is the lower
             line flat?  Schulman et al. 2017, arXiv 1707.06347, Eq. 7 and Fig. 1.
    Plug in: below `def clipped_loss` in expert.py add the line
                 from lesson.exercises import clipped_loss
    See:     python train.py --dataset mgshop --replies template --expert_clip 10 --eval_episodes 0
             That is hardly a bound.  Train again without --expert_clip, and compare the columns
             `grad_norm_expert` and `entropy_expert` of metrics.jsonl, and `tse` at steps 10 and 20
             in evals.jsonl: what do three epochs do when nothing bounds them?  Then leave out the
             minimum and use the clamped ratio alone (the check now fails, as it should): which
             picks get no gradient any more, and what becomes of `tse`?
    """
    raise NotImplementedError


EXERCISES = (esndcg, gae, policy_loss, negative_entropy, tse, clipped_loss)


def main() -> None:
    """Which exercises have been begun."""
    for number, function in enumerate(EXERCISES, 1):
        state = "begun"
        if "NotImplementedError" in function.__code__.co_names:
            state = "not begun"
        title = (function.__doc__ or "").partition("\n")[0].partition(", ")[2]
        print(f"{number}  {function.__name__:17s} {state:10s} {title}")
    print("check them:  python -m pytest -k exercise")


if __name__ == "__main__":
    main()
