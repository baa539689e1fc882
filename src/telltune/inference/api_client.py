"""Client of a language model behind an OpenAI-compatible API.

Time-outs, rate limits and server errors are retried by the `openai` package, with exponential
backoff, jitter and the server's `Retry-After`. Replies are cached on disk by the content of the
request, so a command that stopped goes on where it was. The key is read from the environment when
the client is made; it is in no file, message or cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from telltune.errors import ModelError, RecipeError
from telltune.inference.chat_format import Reply, chat_request, label_in, read_reply
from telltune.inference.timed_calls import event_loop, first_cause, result_of, timed_client
from telltune.storage import cache_folder, read_cached_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from telltune.data.examples import Example
    from telltune.recipe import ApiSpec

_MOST_FAILURES = 3
"""Number of failed requests in a row after which the client gives the server a rest."""
_REST = 60.0
"""Length of the rest in seconds; until then every request is refused at once."""
_OPTIONAL = ("response_format", "seed", "top_p", "temperature")
"""Parameters that are left out if a server refuses them."""
_SHOWN = 200
"""Maximum number of characters of a server's text in a message."""
# Increase this when the same request would be read differently than before.
_VERSION = 1


class CallError(ModelError):
    """A request that failed after its retries; another one may succeed."""


@dataclass(frozen=True)
class ApiUsage:
    """Counts of what a client asked.

    Attributes:
        requests: Number of requests that the server answered.
        cached: Number of requests that the cache answered.
        input_tokens: Number of tokens that the server read.
        output_tokens: Number of tokens that the server wrote.
    """

    requests: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def since(self, before: ApiUsage) -> ApiUsage:
        """Return the counts since an earlier state of the same client."""
        earlier = asdict(before)
        return ApiUsage(**{name: count - earlier[name] for name, count in asdict(self).items()})

    def cost(self, spec: ApiSpec) -> float | None:
        """Return the cost in the currency of the prices; None without prices."""
        if spec.price_in is None or spec.price_out is None:
            return None
        return (self.input_tokens * spec.price_in + self.output_tokens * spec.price_out) / 1e6

    def told(self, spec: ApiSpec) -> str:
        """Return a sentence with the counts, and with the cost if the prices are known."""
        cost = self.cost(spec)
        return (
            f"{spec.model} answered {self.requests:,} requests, and the cache {self.cached:,}; it "
            f"read {self.input_tokens:,} tokens and wrote {self.output_tokens:,}"
            + ("." if cost is None else f", which costs {cost:,.4f}.")
        )


@cache
def api_client(spec: ApiSpec) -> ApiClient:
    """Return the process's `ApiClient` of a model; its users share limits, budgets and counts."""
    return ApiClient(spec)


class ApiClient:
    """Asks a model behind an API; safe to use from several threads.

    Args:
        spec: The model, and the limits on its use.

    Raises:
        RecipeError: The environment variable with the key is not set, or the URL is invalid.
    """

    def __init__(self, spec: ApiSpec) -> None:
        import openai

        self.spec = spec
        self.usage = ApiUsage()
        self._key = api_key(spec)
        event_loop()  # Several threads at a time would start several.
        try:
            self._server = openai.AsyncOpenAI(
                base_url=spec.url,
                # A key must be given; otherwise the package reads OPENAI_API_KEY.
                api_key=self._key or "-",
                timeout=spec.timeout,
                max_retries=spec.retries,
                http_client=timed_client(spec.timeout),
            )
        except Exception as error:  # the package passes on errors of its HTTP library
            raise RecipeError(f"url {spec.url} is not a valid address: {error}.") from None
        # What the package's other environment variables hold is of another service, as for keys.
        custom = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
        names = ("OpenAI-Organization", "OpenAI-Project", *(c.partition(":")[0] for c in custom))
        self._headers = {
            **{name.strip(): openai.Omit() for name in names},
            "Authorization": f"Bearer {self._key}" if self._key else openai.Omit(),
        }
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(spec.concurrency)
        self._refused: set[str] = set()
        self._failures = 0
        self._rests_until = 0.0
        self._stopped = ""

    @property
    def speaker(self) -> str:
        """Cache key of the model."""
        return f"{self.spec.url} {self.spec.model}"

    def ask(
        self,
        example: Example,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        labels: Sequence[str] = (),
    ) -> Reply:
        """Answer an example's prompt; its completion is ignored.

        Args:
            example: Prompt with the turns before it.
            max_tokens: Maximum length of the answer in tokens, without thinking.
            temperature: Sampling temperature.
            top_p: Sample among the likeliest tokens that together have this probability.
            seed: Seed of the sampling; requests with different seeds are cached apart.
            labels: If given, the answer is one of these, on servers with structured answers.

        Raises:
            CallError: The request failed.
            ModelError: The server refuses all requests, has failed several times in a row, or the
                budget is spent.
            DataError: The example has tools.
        """
        request = chat_request(
            example,
            max_tokens=max_tokens + self.spec.thinking_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            labels=labels,
        )
        path = self._cached(request)
        kept = read_cached_json(path)
        if isinstance(kept, dict):
            self._count(cached=1)
            return Reply(**kept)
        with self._places:
            self._check()
            reply = self._call(request)
        reply = replace(reply, text=_paired(label_in(reply.text) if labels else reply.text))
        write_json(path, asdict(reply))
        return reply

    def ask_all(
        self,
        examples: Sequence[Example],
        *,
        seed: int = 0,
        on_done: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> list[Reply]:
        """Answer several prompts at a time, each with a seed of its own, in the settings of `ask`.

        All are asked even if some fail, so that a repeated call asks only about the failed ones.
        `on_done` receives the number of prompts answered since its last call.

        Raises:
            ModelError: As in `ask`, or requests failed.
            DataError: An example has tools.
        """
        replies: dict[int, Reply] = {}
        failed: list[CallError] = []
        with ThreadPoolExecutor(self.spec.concurrency) as pool:
            asked = {
                pool.submit(self.ask, example, seed=(seed * 1_000_003 + i) % 2**31, **settings): i
                for i, example in enumerate(examples)
            }
            try:
                for done in as_completed(asked):
                    try:
                        replies[asked[done]] = done.result()
                    except CallError as error:
                        failed.append(error)
                    if on_done is not None:
                        on_done(1)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failed:
            raise ModelError(
                f"{len(failed)} of {len(examples)} requests failed, the first because {failed[0]} "
                "The other answers are cached; run the command again to ask only for the rest."
            )
        return [replies[i] for i in range(len(examples))]

    def _check(self) -> None:
        """Raise an error if nothing more may be asked."""
        spec, usage = self.spec, self.usage
        tokens, cost = usage.input_tokens + usage.output_tokens, usage.cost(spec) or 0.0
        spent = ""
        if spec.token_budget is not None and tokens >= spec.token_budget:
            spent = (
                f"token_budget: {spec.token_budget:,} for {spec.model} is spent ({tokens:,} tokens"
            )
        elif spec.cost_budget is not None and cost >= spec.cost_budget:
            spent = f"cost_budget: {spec.cost_budget:g} for {spec.model} is spent ({cost:,.4f}"
        if spent:
            raise ModelError(
                f"{spent} in {usage.requests:,} requests); raise it: answers so far are cached and "
                "cost nothing when the command runs again."
            )
        if self._stopped and time.monotonic() < self._rests_until:
            raise ModelError(self._stopped)

    def _call(self, request: dict[str, Any]) -> Reply:
        import openai

        try:
            reply = read_reply(self._sent(request), request)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            variable = self.spec.api_key_env
            hint = f"check the key in {variable}" if variable else "name its key in `api_key_env`"
            raise self._stop(f"{self._refusal(error)}; {hint}.") from None
        except openai.NotFoundError as error:
            hint = "check `url`, which usually ends in /v1, and `model`"
            if models := self._models():
                hint = f"its models are {models}"
            raise self._stop(f"{self._refusal(error)}; {hint}.") from None
        except openai.APIStatusError as error:
            raise self._failed(f"{self._refusal(error)}.") from None
        except openai.APITimeoutError:
            tried = self.spec.retries + 1
            told = f"did not answer in {self.spec.timeout:g} seconds, {tried} times"
            raise self._failed(f"{self._named} {told}.") from None
        except openai.APIConnectionError as error:
            cause = self._shown(first_cause(error))
            raise self._failed(f"the connection to {self._named} failed: {cause}.") from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            told = f"sent no chat completion but {self._shown(str(error))}"
            raise self._failed(f"{self._named} {told}; check `url`.") from None
        with self._lock:
            self._failures, self._stopped = 0, ""
        self._count(requests=1, input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
        return reply

    def _sent(self, request: dict[str, Any]) -> Any:
        """Send a request; leave out parameters that the server refuses, and remember them."""
        import openai

        while True:
            sent = {name: value for name, value in request.items() if name not in self._refused}
            if "max_tokens" not in sent:
                sent["max_completion_tokens"] = request["max_tokens"]
            try:
                return result_of(
                    self._server.chat.completions.create(
                        model=self.spec.model, extra_headers=self._headers, **sent
                    )
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                told = str(error)
                names = [name for name in _OPTIONAL if name in sent and name in told]
                if "max_completion_tokens" in told:
                    names = [name for name in ("max_tokens",) if name in sent]
                if not names:
                    raise
                with self._lock:
                    known = names[0] in self._refused
                    self._refused.add(names[0])
                if not known:
                    logging.getLogger(__name__).warning(
                        "%s refuses `%s`; it is left out.", self._named, names[0]
                    )

    def _models(self) -> str:
        """Return the names of the server's models; "" if it does not list them."""
        try:
            server = self._server.with_options(max_retries=0)
            listed = result_of(server.models.list(extra_headers=self._headers))
            names = [model.id for model in listed.data]
        except Exception:  # whatever a server that is none may cause
            return ""
        return self._shown(", ".join(names))

    def _stop(self, message: str) -> ModelError:
        """Refuse all further requests."""
        with self._lock:
            self._stopped, self._rests_until = message, float("inf")
        return ModelError(message)

    def _failed(self, message: str) -> CallError | ModelError:
        """Count a failure, and return the error to raise."""
        with self._lock:
            self._failures += 1
            if self._failures < _MOST_FAILURES:
                return CallError(message)
            self._stopped = (
                f"{self._failures} requests in a row failed, the last because {message} Answers so "
                "far are cached; run the command again when the server answers."
            )
            self._rests_until = time.monotonic() + _REST
            return ModelError(self._stopped)

    def _count(self, **more: int) -> None:
        with self._lock:
            self.usage = replace(
                self.usage, **{name: getattr(self.usage, name) + n for name, n in more.items()}
            )

    @property
    def _named(self) -> str:
        return f"{self.spec.model} at {self.spec.url}"

    def _refusal(self, error: Any) -> str:
        """Return a clause with the server's status and message."""
        body = error.body if isinstance(error.body, dict) else {}
        told = body.get("message") or body.get("detail") or error.response.text
        return f"{self._named} answered {error.status_code}: {self._shown(str(told))}"

    def _shown(self, text: str) -> str:
        """Return the start of a server's text on one line, without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(_paired(text).split())[:_SHOWN].rstrip(". ")

    def _cached(self, request: dict[str, Any]) -> Path:
        key = json.dumps([_VERSION, self.speaker, request], sort_keys=True)
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return cache_folder("api", digest[:2]) / f"{digest}.json"


def _paired(text: str) -> str:
    """Return a text with U+FFFD for each unpaired surrogate, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def api_key(spec: ApiSpec) -> str:
    """Return the key of a model from the environment; "" if it needs none.

    Raises:
        RecipeError: The environment variable is not set, or its value cannot be a key.
    """
    variable = spec.api_key_env
    if not variable:
        return ""
    # Keys contain lower case letters, so this may be a key in place of a name.
    named = variable if variable.isupper() else "the variable"
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RecipeError(
            f"api_key_env: {named} is not set in the environment; set it, or remove `api_key_env` "
            "if the server needs no key."
        )
    # A header has no other characters. The errors of the HTTP library quote a key that has them.
    if not (key.isascii() and key.isprintable()):
        raise RecipeError(
            f"api_key_env: the value of {named} is not one line of printable ASCII characters, as "
            "keys are; set it again."
        )
    return key
