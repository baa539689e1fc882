"""A model brings weights and a tokenizer; its code is not run unless this is allowed."""

from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.errors import ModelError
from telltune.models import (
    base_revision,
    base_weights,
    load_adapter,
    load_base,
    load_tokenizer,
    without_rights,
)
from telltune.models.files import locate_tokenizer, read_once
from telltune.models.tokenizer import CHATML, PLAIN_TEMPLATE
from telltune.recipe import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path


class Touch:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.fixture
def copied(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model, which the test may change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def as_pickle(folder: Path, weights: Any = None) -> None:
    """Convert a folder's weights to a pickle."""
    file = folder / "model.safetensors"
    torch.save(load_file(file) if weights is None else weights, folder / "pytorch_model.bin")
    file.unlink()


def test_pickles_are_refused_and_the_reason_is_said(copied: Path) -> None:
    as_pickle(copied)
    with pytest.raises(ModelError, match=r"can run code when they are opened.*allow_pickle: true"):
        load_base(ModelSpec(name=str(copied)), "fp32")


def test_pickles_are_read_where_that_is_asked_for(copied: Path, tiny_base: Any) -> None:
    as_pickle(copied)
    spec = ModelSpec(name=str(copied), allow_pickle=True)
    base = load_base(spec, "fp32")
    for name, weight in tiny_base.model.state_dict().items():
        torch.testing.assert_close(base.model.state_dict()[name], weight)
    # Identified by its weights, as other models.
    assert base.revision == base_revision(spec)
    assert [path.name for path in base_weights(spec)] == ["pytorch_model.bin"]
    torch.save({"x": torch.ones(1)}, copied / "pytorch_model.bin")
    assert base.revision != base_revision(spec)


def test_weights_in_safetensors_are_taken_where_both_are_there(copied: Path) -> None:
    (copied / "pytorch_model.bin").write_bytes(b"never opened")
    load_base(ModelSpec(name=str(copied)), "fp32")


@pytest.mark.parametrize("allowed", [False, True])
def test_a_pickle_that_would_run_code_never_does(
    copied: Path, tmp_path: Path, allowed: bool
) -> None:
    (copied / "model.safetensors").unlink()
    marker = tmp_path / "marker"
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(marker), protocol=2))
    with pytest.raises(ModelError):
        load_base(ModelSpec(name=str(copied), allow_pickle=allowed), "fp32")
    assert not marker.exists()
    pickle.loads((copied / "pytorch_model.bin").read_bytes())
    assert marker.exists()  # the pickle would have created it


def bring_code(folder: Path, marker: Path) -> None:
    """Let a model's and a tokenizer's configuration refer to code in their folder."""
    code = f"open({str(marker)!r}, 'w')\nfrom transformers import LlamaConfig as OwnConfig\n"
    (folder / "own.py").write_text(code)
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        path = folder / name
        if path.exists():
            values = json.loads(path.read_text())
            entry: Any = "own.OwnConfig" if key == "AutoConfig" else [None, "own.OwnTokenizer"]
            values |= {"auto_map": {key: entry}, "model_type": "its-own"}
            values |= {"tokenizer_class": "OwnTokenizer"} if key == "AutoTokenizer" else {}
            path.write_text(json.dumps(values))


def test_code_of_a_model_is_not_run_unless_it_is_asked_for(copied: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bring_code(copied, marker)
    with pytest.raises(ModelError, match=r"needs custom code; set `model.trust_remote_code: true"):
        load_base(ModelSpec(name=str(copied)), "fp32")
    assert not marker.exists()


@pytest.fixture
def adapter(tiny_base: Any, tmp_path: Path) -> Path:
    """Return an adapter folder as PEFT writes it."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "adapter"
    model = get_peft_model(tiny_base.model, LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(folder)
    tiny_base.tokenizer.save_pretrained(folder)
    model.unload()
    return folder


def test_code_beside_an_adapter_is_not_run_and_not_asked_about(
    adapter: Path, tiny_base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    bring_code(adapter, marker)
    # The question that transformers asks in a terminal.
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to run code"))
    with pytest.raises(ModelError, match="the adapter cannot be loaded"):
        load_adapter(tiny_base, adapter)
    assert not marker.exists()


def test_an_adapter_that_is_a_pickle_or_gone_is_refused(adapter: Path, tiny_base: Any) -> None:
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    load_adapter(tiny_base, adapter)[0].unload()
    weights.unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is missing"):
        load_adapter(tiny_base, adapter)


def test_whoever_names_a_model_for_others_grants_it_nothing() -> None:
    spec = ModelSpec(name="org/name", revision="1", trust_remote_code=True, allow_pickle=True)
    assert without_rights(spec) == ModelSpec(name="org/name", revision="1")


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ lipsum.__globals__['os'].popen('true').read() }}",
    "{{ namespace.__init__.__globals__['__builtins__']['open']('MARKER', 'w') }}",
    "{{ (messages|map(attribute='__class__')|list)[0].__base__.__subclasses__() }}",
    "{{ '%s'|format(messages).format.__self__.__class__.__mro__ }}",
    "{% set x = messages.append({'role': 'user', 'content': 'more'}) %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_chat_template_cannot_leave_its_sandbox(
    tiny_tokenizer: Any, tmp_path: Path, escape: str
) -> None:
    escape = escape.replace("MARKER", str(tmp_path / "marker"))
    before = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = escape + before
    with pytest.raises(ModelError):
        Encoder(tiny_tokenizer)
    with pytest.raises(ModelError, match="cannot write an anchor"):
        anchored_tokenizer(tiny_tokenizer, Anchor("Name the shape."))
    assert not (tmp_path / "marker").exists()
    # Without the escape, the same template is accepted.
    tiny_tokenizer.chat_template = "{{ '' }}" + before
    Encoder(tiny_tokenizer)


def test_an_anchor_is_text_to_the_template_that_carries_it(tiny_tokenizer: Any) -> None:
    hostile = 'Say "{{ 7 * 7 }}" {% raw %} \\" + cycler }} {# \n\t\r ünd \\n {{ messages }}'
    anchored = anchored_tokenizer(tiny_tokenizer, Anchor(hostile, hostile))
    text = anchored.apply_chat_template(
        [{"role": "user", "content": "item 7"}], tokenize=False, add_generation_prompt=True
    )
    assert text.count(hostile) == 2


def with_tokens(folder: Path, tokens: list[str], *, special: bool = False, **names: str) -> Any:
    """Add tokens to a folder's tokenizer for which the model has no embeddings."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(tokens, special_tokens=special)
    for name, token in names.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused_before_training(
    copied: Path, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    import telltune

    rows = json.loads((copied / "config.json").read_text())["vocab_size"]
    with_tokens(copied, ["<new>", "<newer>"])
    message = rf"gives '<new>' the id {rows}, .* embeddings for the ids below {rows} only \(2 such"
    toy_recipe["model"] = str(copied)
    for verb in (
        lambda: load_base(ModelSpec(name=str(copied)), "fp32"),
        lambda: telltune.plan(toy_recipe, measure=False),
        lambda: telltune.fit(toy_recipe, tmp_path / "out", progress=False),
    ):
        with pytest.raises(ModelError, match=message) as error:
            verb()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_padding_token_without_an_embedding_is_refused(copied: Path) -> None:
    with_tokens(copied, ["<pad>"], special=True, pad_token="<pad>")
    with pytest.raises(ModelError, match="gives '<pad>' the id"):
        load_base(ModelSpec(name=str(copied)), "fp32")


def test_a_control_token_that_the_template_writes_is_refused(copied: Path) -> None:
    tokenizer = with_tokens(copied, ["<turn>"], special=True)
    spec = ModelSpec(name=str(copied))
    # Such as a token for images, which no text contains, so that it needs no embedding.
    assert load_base(spec, "fp32").tokenizer.convert_tokens_to_ids("<turn>") == len(tokenizer) - 1
    tokenizer.chat_template = "<turn>" + tokenizer.chat_template
    tokenizer.save_pretrained(copied)
    with pytest.raises(ModelError, match="gives '<turn>' the id"):
        load_base(spec, "fp32")


def test_a_recipe_chooses_the_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    own = load_tokenizer(ModelSpec(name=str(tiny_model)))
    assert own.template_name == f"the chat template of model `{tiny_model}`"
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}", encoding="utf-8")
    chosen = load_tokenizer(ModelSpec(name=str(tiny_model), chat_template=str(file)))
    assert chosen.chat_template == file.read_text()
    assert chosen.template_name == f"the chat template {file}"
    chatml = load_tokenizer(ModelSpec(name=str(tiny_model), chat_template="chatml"))
    assert chatml.chat_template == CHATML
    # The name in errors is no part of the tokenizer.
    chosen.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == file.read_text()
    assert "template_name" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()


def test_a_tokenizer_with_nothing_that_ends_answers_is_refused(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    file = copied / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: v for key, v in config.items() if key != "eos_token"}))
    with pytest.raises(ModelError) as refused:
        load_tokenizer(ModelSpec(name=str(copied)))
    message = str(refused.value)
    assert message.startswith(f"model `{copied}` has no chat template, and its tokenizer has no ")
    assert "set `eos_token` in its tokenizer_config.json, or `model.chat_template`" in message
    (copied / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    tokenizer = load_tokenizer(ModelSpec(name=str(copied)))
    with pytest.raises(
        ModelError, match=rf"model `{copied}` writes no token after an .* no `eos_t"
    ):
        Encoder(tokenizer)


def test_a_named_chat_template_is_chosen_by_its_name(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    tokenizer = load_tokenizer(ModelSpec(name=str(tiny_model)))
    tokenizer.chat_template = {"default": CHATML, "bare": PLAIN_TEMPLATE}
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(ModelSpec(name=str(folder))).chat_template == CHATML
    bare = load_tokenizer(ModelSpec(name=str(folder), chat_template="bare"))
    assert bare.chat_template == PLAIN_TEMPLATE
    tokenizer.chat_template = {"rag": CHATML, "bare": PLAIN_TEMPLATE}
    tokenizer.save_pretrained(tmp_path / "no-default")
    with pytest.raises(ModelError, match=r"set `model\.chat_template` to one of `bare`, `rag`"):
        load_tokenizer(ModelSpec(name=str(tmp_path / "no-default")))


def test_a_chat_template_that_is_not_there_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for chosen in ("nothing.jinja", "x" * 5000, "~nobody-at-all/x.jinja", str(tmp_path)):
        with pytest.raises(ModelError, match=r"is not a file, not `chatml`, and not a template"):
            load_tokenizer(ModelSpec(name=str(tiny_model), chat_template=chosen))
    empty = tmp_path / "empty.jinja"
    empty.write_text("\n")
    with pytest.raises(ModelError, match=r"empty\.jinja is empty"):
        load_tokenizer(ModelSpec(name=str(tiny_model), chat_template=str(empty)))


def test_the_tokenizer_of_a_gguf_file_is_read_without_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("the weights are read")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    assert len(load_tokenizer(ModelSpec())) == 49_152
    monkeypatch.setattr("hashlib.file_digest", refuse)
    locate_tokenizer(ModelSpec())  # Its content is known already.


def test_a_gguf_file_is_opened_once_for_all_that_transformers_reads_of_it(tmp_path: Path) -> None:
    import gguf

    names = [f"token {n}" for n in range(3)]
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer = gguf.GGUFWriter(path := tmp_path / "tiny.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", names)
    writer.add_tensor("token_embd.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    own = gguf.GGUFReader
    with read_once():
        reader = gguf.GGUFReader(path)
        with read_once():
            assert gguf.GGUFReader(path) is reader
        assert gguf.get_tensor_name_map(1, 2) is gguf.get_tensor_name_map(1, 2)
        assert reader.fields["tokenizer.ggml.tokens"].contents() == names
        [tensor] = reader.tensors
        np.testing.assert_array_equal(tensor.data, weights)
        # Plain arrays, which are still pieces of the mapped file.
        assert type(tensor.data) is np.ndarray
        assert not tensor.data.flags.owndata
    assert gguf.GGUFReader is own
