"""Fixtures: adapters and baselines of the tiny model, and servers in this process."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

import telltune
from asking import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from openai import OpenAI

    from telltune.serving.server import Server


@pytest.fixture(scope="session")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted")


@pytest.fixture
def fitted(fitted_once: Path, toy_recipe: dict[str, Any]) -> Callable[..., Path]:
    """Return a function that fits an adapter or baseline once and returns its folder."""

    def fit(name: str, **settings: Any) -> Path:
        folder = fitted_once / name
        if not folder.exists():
            recipe = copy.deepcopy(toy_recipe)
            recipe["training"] |= settings.pop("training", {})
            telltune.fit(recipe | settings, folder, progress=False)
        return folder

    return fit


@pytest.fixture
def shapes(fitted: Callable[..., Path]) -> Path:
    """Return an adapter that was trained on the toy task."""
    return fitted("shapes", method="sft_anchor", mixture={"passes": 8})


@pytest.fixture
def rambling(fitted: Callable[..., Path]) -> Path:
    """Return an adapter of the same base that has learned nothing and writes long answers."""
    return fitted(
        "rambling",
        method="sft",
        mixture={"passes": 1},
        training={"learning_rate": 1e-9},
        evaluation={"max_new_tokens": 40},
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[Any, Any]]:
    """Yield the servers that are started once, and end them."""
    started: dict[Any, Any] = {}
    yield started
    for _, context in started.values():
        context.__exit__(None, None, None)


@pytest.fixture
def served(servers: dict[Any, Any]) -> Callable[..., tuple[Server, OpenAI]]:
    """Return a function that serves folders, once for all tests, with a server and a client."""

    def serve(*folders: Path) -> tuple[Server, OpenAI]:
        if folders not in servers:
            context = serving(*folders)
            servers[folders] = (context.__enter__(), context)
        return servers[folders][0]

    return serve
