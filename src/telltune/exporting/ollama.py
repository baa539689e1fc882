"""Modelfile of Ollama: the model, its chat template, and how it answers.

Ollama has templates in Go's language instead of Jinja's. Nearly all chat templates (ChatML, Llama
3, Gemma and others) write fixed texts around the turns. These texts are found by rendering a
conversation of marks, and the result is checked against the chat template.

Sources: https://docs.ollama.com/modelfile, and `template/template.go` of Ollama.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

from telltune.data.chat_template import ChatTemplate
from telltune.data.control_tokens import ControlTokens
from telltune.data.encoding import Encoder
from telltune.errors import ModelError
from telltune.fitting.adapter_folder import MODELFILE
from telltune.models import load_config, load_tokenizer
from telltune.recipe import ModelSpec
from telltune.storage import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

_IMPORTED = {
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
}
"""Architectures that Ollama reads from safetensors (its documentation and `convert/convert.go`)."""

_SYSTEM = "PROBEsystem"
_ASKED, _SAID = ("PROBEone", "PROBEtwo", "PROBEthree"), ("PROBEfirst", "PROBEsecond")


class TurnTexts(NamedTuple):
    """Texts that a chat template writes around the turns of a conversation.

    Attributes:
        start: Text before the first user turn of a conversation without a system turn.
        system: Text before the system turn; None if the template refuses or drops such turns.
        after_system: Text between the system turn and the first user turn.
        answer: Text between the first user turn and the first answer.
        later_answer: Text between a later user turn and its answer.
        next_user: Text between an answer and the next user turn.
        ask: Text at the end of a prompt without earlier answers. It contains the response side of
            the anchor, if there is one.
        ask_again: Text at the end of a prompt with earlier answers.
    """

    start: str
    system: str | None
    after_system: str
    answer: str
    later_answer: str
    next_user: str
    ask: str
    ask_again: str

    def render(self, turns: Sequence[tuple[str, str]]) -> str:
        """Render (role, text) turns that end with a user turn, as the Modelfile does."""
        text, asked, said = "", False, False
        if not turns or turns[0][0] != "system":
            text = self.start
        for role, content in turns:
            if role == "system":
                text += f"{self.system}{content}{self.after_system}"
            elif role == "user":
                text += (self.next_user if asked else "") + content
                asked = True
            else:
                text += (self.later_answer if said else self.answer) + content
                said = True
        return text + (self.ask_again if said else self.ask)

    def to_go(self) -> str:
        """Return the template in Go's language; it renders as `render` does."""
        start, system, after, answer, later_answer, next_user, ask, ask_again = (
            _go(text or "") for text in self
        )
        if self.system is not None:
            start = _when(".System", system + "{{ .System }}" + after, start)
        return "".join(
            [
                "{{ $asked := false }}{{ $said := false }}",
                start,
                "{{ range .Messages }}",
                '{{ if eq .Role "user" }}',
                _when("$asked", next_user, ""),
                "{{ $asked = true }}{{ .Content }}",
                '{{ else if eq .Role "assistant" }}',
                _when("$said", later_answer, answer),
                "{{ $said = true }}{{ .Content }}",
                "{{ end }}{{ end }}",
                _when("$said", ask_again, ask),
            ]
        )


def write_modelfile(folder: Path, max_new_tokens: int) -> None:
    """Write a Modelfile into a model folder.

    Raises:
        ModelError: The chat template does not write fixed texts around the turns.
    """
    tokenizer = load_tokenizer(ModelSpec(name=str(folder.resolve())))
    stops = tokenizer.convert_ids_to_tokens(sorted(Encoder(tokenizer).stop_ids))
    lines = [
        f"# Create the model with: ollama create NAME -f {MODELFILE}",
        "# FROM may also name a GGUF file that was made of this folder.",
        "FROM .",
        f'TEMPLATE """{turn_texts(tokenizer).to_go()}"""',
        *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops),
        "PARAMETER temperature 0",
        "# By default, Ollama makes repeated words less likely, which training did not.",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_predict {max_new_tokens}",
    ]
    write_text(folder / MODELFILE, "\n".join(lines) + "\n")


def ollama_command(folder: Path) -> str:
    """Return the command that makes a model of Ollama, named after the folder."""
    name = folder.resolve().name
    return shlex.join(["ollama", "create", name, "-f", str(folder / MODELFILE)])


def imports_safetensors(folder: Path) -> bool:
    """Return whether Ollama reads a model folder directly, without a GGUF file."""
    architectures = load_config(ModelSpec(name=str(folder.resolve()))).architectures or []
    return bool(_IMPORTED.intersection(architectures))


def turn_texts(tokenizer: PreTrainedTokenizerBase) -> TurnTexts:
    """Find the texts that a tokenizer's chat template writes around the turns.

    A token that Ollama itself puts before every prompt is removed from the start.

    Raises:
        ModelError: The template does not write fixed texts around the turns.
    """
    template = ChatTemplate(tokenizer, ControlTokens(tokenizer))
    whole = [
        ("user", _ASKED[0]),
        ("assistant", _SAID[0]),
        ("user", _ASKED[1]),
        ("assistant", _SAID[1]),
        ("user", _ASKED[2]),
    ]
    try:
        start, ask = _around(template.text(whole[:1]), whole[:1])
        _, answer, next_user, later_answer, _, ask_again = _around(template.text(whole), whole)
        system, after_system = _around_system(template, whole)
        found = TurnTexts(
            start, system, after_system, answer, later_answer, next_user, ask, ask_again
        )
        opening: list[list[tuple[str, str]]] = (
            [[]] if system is None else [[], [("system", _SYSTEM)]]
        )
        fixed = all(
            found.render([*first, *whole[:end]]) == template.text([*first, *whole[:end]])
            for first in opening
            for end in (1, 3, 5)
        )
    except ValueError:
        fixed = False
    if not fixed:
        raise ModelError(
            f"{template.name} does not write fixed texts around the turns, so it cannot be a "
            "template of Ollama; serve the model with `tell export --vllm` or transformers."
        )
    if _is_added(tokenizer):
        begin = str(tokenizer.bos_token)
        found = found._replace(
            start=found.start.removeprefix(begin),
            system=found.system and found.system.removeprefix(begin),
        )
    return found


def _around(text: str, turns: Sequence[tuple[str, str]]) -> list[str]:
    """Return the texts before, between and behind the contents of turns.

    Raises:
        ValueError: The text does not contain the contents once each and in order.
    """
    parts = re.split("|".join(content for _, content in turns), text)
    if len(parts) != len(turns) + 1:
        raise ValueError
    return parts


def _around_system(
    template: ChatTemplate, whole: Sequence[tuple[str, str]]
) -> tuple[str | None, str]:
    turns = [("system", _SYSTEM), whole[0]]
    try:
        before, after, _ = _around(template.text(turns), turns)
    except Exception:  # templates may raise any exception
        return None, ""
    return before, after


def _is_added(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer, and so Ollama, puts its BOS token before every text."""
    ids = tokenizer("").input_ids
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _when(condition: str, then: str, otherwise: str) -> str:
    """Return a choice between two texts in a Go template."""
    if then == otherwise:
        return then
    other = "{{ else }}" + otherwise if otherwise else ""
    return "{{ if " + condition + " }}" + then + other + "{{ end }}"


def _go(text: str) -> str:
    """Return a text as it is written in a Go template between the quotes of a Modelfile."""
    return re.sub(r'\{+|"{3,}', lambda found: f"{{{{ {json.dumps(found[0])} }}}}", text)
