"""A tiny finetuning with its teacher, clients that ask about them, and a browser."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from agents.pretrained import save_predictor
from explorer.session import Session
from explorer.subject import open_subject
from tests.explorer.browsed import WIDE, serving, settle
from tests.explorer.served import Client, Runs, make_finetuning, measured
from tests.helpers.models import make_config, make_predictor

BROWSERS = ("chromium-headless-shell", "chromium")
# The paper's sizes: what takes time in a response.
PAPER = {"z_dim": 20, "dyn_deter": 200, "dyn_hidden": 200, "dyn_stoch": 50, "units": 200}


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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finetuning of the paper's sizes."""
    if given := os.environ.get("EXPLORED"):
        return Path(given)
    root = tmp_path_factory.mktemp("browser")
    first, second = root / "t" / "pretrain" / "seed_0", root / "t" / "diswm" / "seed_0"
    save_predictor(first, make_predictor(2, **PAPER))
    make_config(beta_vae_pretrain=True, **PAPER).save(first / "config.yaml")
    make_finetuning(second, first, rows=60, task="dmc2gym_point_mass_easy", **PAPER)
    (second / "disentanglement").mkdir()
    (second / "disentanglement" / "metrics.json").write_text(json.dumps(measured(20)))
    return second


@pytest.fixture(scope="module")
def server(run):
    with serving(run) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)))
    words = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=words)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, server):
    """Opens tabs; in the end nothing may have gone wrong there, nor been asked elsewhere."""
    url, _ = server
    wrong, contexts = [], []

    def open_tab(size=WIDE, scheme="light"):
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        local = (url, "blob:", "data:")
        page.on("request", lambda r: r.url.startswith(local) or wrong.append(r.url))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        settle(page)
        return page

    open_tab.wrong = wrong
    yield open_tab
    for context in contexts:
        context.close()
    assert wrong == []
