"""What CMPO asks of others: marks for single turns (Eq. 6), and customers that a model plays."""
from __future__ import annotations

import importlib
from typing import Any

from data import DataError, Dataset
from hosted.customer import HostedCustomers, refuse_strangers
from hosted.genrm import HostedGenRM
from infra.api import ApiConfig, hosted_model
from infra.client import Client
from systems.cmpo_config import CMPOConfig

# dataset -> whose rules know its acts
GENRMS = {"fds": "shop.genrm:RuleGenRM"}


def genrm_of(name: str, dataset: Dataset) -> Any:
    """Who marks single turns (Eq. 6): `score` of what a judge sees -> S_j; None: nobody, or nobody
    before `Hosted` has an address.
    """
    if name != "rules":
        return None
    if dataset.name not in GENRMS:
        raise DataError(
            f"--genrm rules has no rules for {dataset.name}, only for {', '.join(GENRMS)}: add "
            "--genrm none")
    module, _, found = GENRMS[dataset.name].partition(":")
    return getattr(importlib.import_module(module), found)(dataset.skills)


class Hosted:
    """The hosted models of a run, each None where rules do.

    raises  DataError (ApiError) where there is no --api_base, or the dataset has no such customers
    """

    def __init__(self, options: CMPOConfig, dataset: Dataset, api: ApiConfig):
        self.genrm: HostedGenRM | None = None
        self.customers: HostedCustomers | None = None
        self.clients: list[Client] = []
        if options.genrm not in ("rules", "none"):
            client = self._client(options.genrm, "--genrm", api)
            self.genrm = HostedGenRM(client, dataset)
        if options.customer != "rules":
            refuse_strangers(dataset)
            client = self._client(options.customer, "--customer", api)
            self.customers = HostedCustomers(client, dataset)

    def _client(self, name: str, flag: str, api: ApiConfig) -> Client:
        client = Client(hosted_model(name, flag, "rules"), api)
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
