"""Recipe section of a language model behind an API."""

from __future__ import annotations

import re

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from telltune.recipe.base import ConfigModel


class ApiSpec(ConfigModel):
    """Language model behind an OpenAI-compatible API.

    Example:
        ```yaml
        url: https://api.example.com/v1
        model: large
        api_key_env: EXAMPLE_API_KEY
        price_in: 2.5
        price_out: 10
        cost_budget: 5
        ```
    """

    url: str
    """Address of the API, which usually ends in `/v1`."""
    model: str = Field(min_length=1)
    """Name of the model on the server."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key; by default no key is sent."""
    concurrency: PositiveInt = 8
    """Maximum number of requests at a time."""
    timeout: PositiveFloat = 60.0
    """Time limit of a request in seconds."""
    retries: NonNegativeInt = 3
    """Number of times that a request is repeated after a time-out, a rate limit or a server
    error, with growing waits."""
    thinking_tokens: NonNegativeInt = 0
    """Number of tokens for the model's thinking, added to the limit of each answer."""
    token_budget: NonNegativeInt | None = None
    """Number of tokens, read and written, after which a command asks nothing more; by default no
    limit."""
    price_in: NonNegativeFloat | None = None
    """Price of a million tokens that the model reads."""
    price_out: NonNegativeFloat | None = None
    """Price of a million tokens that the model writes."""
    cost_budget: NonNegativeFloat | None = None
    """Cost after which a command asks nothing more, in the currency of the prices; by default no
    limit."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", url):
            raise ValueError("must be an HTTP address such as http://localhost:8000/v1")
        return url

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, variable: str | None) -> str | None:
        if variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):
            raise ValueError("must be the name of an environment variable, not the key itself")
        return variable

    @field_validator("cost_budget")
    @classmethod
    def _has_prices(cls, budget: float | None, info: ValidationInfo) -> float | None:
        if budget is not None and None in (info.data.get("price_in"), info.data.get("price_out")):
            raise ValueError("needs `price_in` and `price_out`")
        return budget
