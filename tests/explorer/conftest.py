"""A tiny finetuning with its teacher, and clients that ask about them."""

from __future__ import annotations

import json

import pytest

from agents.pretrained import save_predictor
from explorer.session import Session
from explorer.subject import open_subject
from tests.explorer.served import Client, Runs, make_finetuning, measured
from tests.helpers.models import make_config, make_predictor


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Both stages; what the student's latents tell of has been measured."""
    root = tmp_path_factory.mktemp("explored")
    first, second = root / "t" / "pretrain" / "seed_0", root / "t" / "diswm" / "seed_0"
    save_predictor(first, make_predictor(2, seed=3))
    make_config(beta_vae_pretrain=True).save(first / "config.yaml")
    make_finetuning(second, first)
    (second / "disentanglement").mkdir()
    (second / "disentanglement" / "metrics.json").write_text(json.dumps(measured()))
    return Runs(first, second)


@pytest.fixture(scope="session")
def finetuned(runs: Runs) -> Client:
    """A client of the finetuning."""
    return Client(Session(open_subject(str(runs.second))))


@pytest.fixture(scope="session")
def pretrained(runs: Runs) -> Client:
    """A client of the pretraining."""
    return Client(Session(open_subject(str(runs.first))))
