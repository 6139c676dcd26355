"""What an update of CMPO reports, whoever learned by it."""
from __future__ import annotations

from torch import Tensor

from infra.processes import all_sum


class Shown:
    """Terms of a step, added up as they come; summed over processes at the end.

    decisions  turns of all processes that could issue a voucher
    norm_of    the column of the gradient's norm
    """

    def __init__(self, decisions: float, norm_of: str = "grad_norm_expert"):
        self.decisions = decisions
        self.norm_of = norm_of
        self.sums = dict.fromkeys(("loss", "kl", "clipped", "entropy_decision"), 0.0)
        self.norm: float | None = None

    def add(self, **terms: Tensor) -> None:
        for name, term in terms.items():
            self.sums[name] += float(term.detach())

    def decide(self, log_voucher: Tensor, log_chat: Tensor) -> None:
        """The entropy of the two-way decision, nats."""
        p, rest = log_voucher.detach().exp(), log_chat.detach().exp()
        entropy = -(p * log_voucher.detach() + rest * log_chat.detach())
        self.add(entropy_decision=entropy.nan_to_num().sum() / self.decisions)

    def row(self) -> dict[str, float | None]:
        if self.norm is None:
            return dict.fromkeys([*self.sums, self.norm_of])
        names = list(self.sums)
        return dict(zip(names, all_sum(*self.sums.values()))) | {self.norm_of: self.norm}
