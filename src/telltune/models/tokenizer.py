"""Loading of a model's tokenizer, with the chat template that the recipe selects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from telltune.errors import ModelError
from telltune.models.files import explained, locate_tokenizer, where_from

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from telltune.recipe import ModelSpec

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Chat template of `model.chat_template: chatml`, for base models without one."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ message['content'] + '\n\n' }}"
    "{% endif %}{% endfor %}"
)
"""Default chat template of models without one: concatenated turns, answers end with EOS."""


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, with a padding token and the spec's chat template.

    Error messages use its attribute `template_name` to name the template.

    Raises:
        ModelError: If the tokenizer cannot be read, the chat template does not exist, or there is
            neither a chat template nor a token that ends answers.
    """
    from transformers import AutoTokenizer

    with explained(spec):
        tokenizer = AutoTokenizer.from_pretrained(locate_tokenizer(spec), **where_from(spec))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template, tokenizer.template_name = _chat_template(spec, tokenizer.chat_template)
    if tokenizer.chat_template == PLAIN_TEMPLATE and tokenizer.eos_token is None:
        raise ModelError(
            f"model `{spec.name}` has no chat template, and its tokenizer has no `eos_token`, so "
            "answers cannot end; set `eos_token` in its tokenizer_config.json, or "
            "`model.chat_template` to a template that ends answers with a token of its own."
        )
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> None:
    """Check that each id of the tokenizer is below `rows`, the number of rows of the embedding.

    Special tokens are exempt if the chat template does not write them and they are not the BOS,
    EOS, padding or unknown token. (Gemma 3 1B has one such token more than embeddings.)

    Raises:
        ModelError: If there are ids without an embedding.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = {getattr(tokenizer, f"{use}_token_id") for use in ("bos", "eos", "pad", "unk")}
    beyond = sorted(
        (i, token)
        for token, i in tokenizer.get_vocab().items()
        if i >= rows and (i not in special or i in used or token in str(tokenizer.chat_template))
    )
    if beyond:
        raise ModelError(
            f"model `{name}`: the tokenizer gives {beyond[0][1]!r} the id {beyond[0][0]}, but the "
            f"model has embeddings for the ids below {rows} only ({len(beyond)} such tokens); use "
            "the model's own tokenizer, or resize the embeddings and save the model "
            "(`model.resize_token_embeddings(len(tokenizer))`)."
        )


def _chat_template(spec: ModelSpec, own: str | dict[str, str] | None) -> tuple[str, str]:
    """Return the chat template that a spec selects, and its name for error messages.

    `own` is what the tokenizer has: one template, several by name, or None.
    """
    named = own if isinstance(own, dict) else {}
    chosen, names = spec.chat_template, ", ".join(f"`{name}`" for name in sorted(named))
    if chosen is None:
        if isinstance(own, str):
            return own, f"the chat template of model `{spec.name}`"
        if not named:
            return PLAIN_TEMPLATE, "the plain template (the model has none of its own)"
        if "default" not in named:
            raise ModelError(
                f"model `{spec.name}` has several chat templates but no default; "
                f"set `model.chat_template` to one of {names}."
            )
        chosen = "default"
    if chosen in named:
        return named[chosen], f"the chat template `{chosen}` of model `{spec.name}`"
    path = template_file(spec)
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"the chat template {path} cannot be read: {error}.") from None
        if not text.strip():
            raise ModelError(f"the chat template {path} is empty.")
        return text, f"the chat template {path}"
    if chosen == "chatml":
        return CHATML, "the chat template `chatml`"
    raise ModelError(
        f"`model.chat_template: {chosen}` is not a file, not `chatml`, and not a template of model "
        f"`{spec.name}`, which has {names or 'no named templates'}."
    )


def template_file(spec: ModelSpec) -> Path | None:
    """Return the file that a spec's `chat_template` names; None if there is no such file."""
    if spec.chat_template is None:
        return None
    try:
        path = Path(spec.chat_template).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # the name is too long, or the home folder is unknown
        return None
