"""Rows of the budget study in which a hosted model serves alone: the paper's prompted models.

    python -m experiments.budget --rows never free --api gpt-4.1 --api_base http://127.0.0.1:8000/v1

There is a row for each model of `--api`, and none without it.  The model decides and then writes
(hosted/deciding.py); it is played with the test customers of all other rows, at temperature 0.
Nothing is enforced and nothing learned.  The customers' ear hears free text less surely than the
phrase book's sentences, and the process judge by rule cannot read it: that column stays a dash."""
from __future__ import annotations

from dataclasses import replace

import torch

from data import DECISION, Dataset, Episode, Request
from expert import ExpertConfig
from gopo import Gopo
from hosted.deciding import DecidingAgent
from hosted.judge import judge_for
from infra.client import Client
from play import GopoConfig
from shop.fds_customer import HORIZON
from start.pairs import may_decide


class HostedService(Gopo):
    """A single agent that is asked for a decision before its words."""

    def ask_decision(self, episode: Episode, request: Request) -> None:
        asked = may_decide(request, issued=DECISION in episode.seen.banned)
        request.context, request.decisions = asked.context, asked.decisions


def hosted_service(dataset: Dataset, client: Client) -> Gopo:
    """A hosted model as the agent of the store; it reads the whole talk."""
    torch.manual_seed(0)
    # the policy chooses nothing, and its perception is told to nobody
    cfg = replace(ExpertConfig(), history=HORIZON)
    policy = Gopo.new_policy(dataset, cfg, None)
    agent = DecidingAgent(client, dataset)
    return HostedService(
        dataset, policy, None, judge_for(dataset), GopoConfig(no_expert=True), agent)
