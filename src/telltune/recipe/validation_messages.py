"""Descriptions of the mistakes in a recipe: one clause per mistake, all in one message."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from telltune.errors import shown
from telltune.masking import secret_in

NUMBER = "number"
"""Tag of the number in a setting that may also be `auto`; pydantic appends it to the location."""
_NAMED = 20
OTHER_NAMES = {
    "mixture.passes": ["epochs", "num_epochs", "num_train_epochs"],
    "training.schedule": ["lr_scheduler", "lr_scheduler_type"],
    "training.learning_rate": ["lr", "learning_rate"],
    "training.batch_size": ["batch_size", "micro_batch_size", "per_device_train_batch_size"],
    "training.warmup_steps": ["warmup_ratio"],
    "training.max_length": ["max_seq_length", "max_seq_len", "sequence_len", "cutoff_len"],
    "training.precision": ["bf16", "fp16", "dtype", "torch_dtype"],
    "lora.rank": ["r", "lora_r", "lora_rank"],
    "lora.alpha": ["lora_alpha"],
    "lora.dropout": ["lora_dropout"],
    "lora.target_modules": ["lora_target_modules"],
    "model": ["base_model", "model_id", "model_name", "model_name_or_path"],
    "model.quantization": ["load_in_4bit", "load_in_8bit", "quantization_bit"],
    "task.train": ["dataset", "datasets", "train_dataset", "train_file"],
    "task.dev_share": ["val_size", "val_set_size"],
}
"""Keys of a recipe, with their names in Transformers, TRL, axolotl, LLaMA-Factory and ms-swift."""

_WHOLE, _NUMBER = "must be a whole number", "must be a number"
_PROBLEMS = {
    "string_type": "must be text; put it in quotes",
    "string_too_short": "must not be empty",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": "has too many digits",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": "must be `true` or `false`",
    "bool_parsing": "must be `true` or `false`",
    "dict_type": "must be a mapping, such as `{{key: value}}`",
    "tuple_type": "must be a list of two numbers, such as `[0, 100]`",
    "too_short": "must list at least {min_length}, but lists {actual_length}",
    "too_long": "must list at most {max_length}, but lists {actual_length}",
}
"""Texts for kinds of mistakes whose text by pydantic names Python types or gives no remedy."""


def explain(error: ValidationError, model: type[BaseModel], what: str) -> list[str]:
    """Return a clause for each mistake: key, problem, and the nearest key to a mistyped one."""
    return [clause for _, clause in explained(error, model, what)]


def explained(error: ValidationError, model: type[BaseModel], what: str) -> list[tuple[str, str]]:
    """Return the key of each mistake and its clause; see `explain`."""
    mistakes = error.errors(include_url=False)
    clauses = [_clause(mistake, model, what) for mistake in mistakes[:_NAMED]]
    more = len(mistakes) - len(clauses)
    return [*clauses, ("", f"and {more} more mistakes")] if more else clauses


def _clause(mistake: Any, model: type[BaseModel], what: str) -> tuple[str, str]:
    parts = mistake["loc"][:-1] if mistake["loc"][-1:] == (NUMBER,) else mistake["loc"]
    told = _told(mistake, ".".join(shown(str(part)) for part in parts), model, what)
    return ".".join(str(part) for part in parts), told


def _told(mistake: Any, key: str, model: type[BaseModel], what: str) -> str:
    if mistake["type"] == "extra_forbidden":
        known = _keys_beside(mistake["loc"], model)
        name = str(mistake["loc"][-1])
        near = _keys_elsewhere(name, model)
        near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        return f"`{key}` is not a key of this {what} ({hint})"
    if mistake["type"] == "missing":
        return f"`{key}` is missing"
    message = _problem(mistake, model)
    # A check of the whole object has no key.
    return f"`{key}`: {message}" if key else message


def _problem(mistake: Any, model: type[BaseModel]) -> str:
    """Return what a value must be, in words for people who do not know Python."""
    kind, value = mistake["type"], mistake["input"]
    if kind in _PROBLEMS:
        told: str = _PROBLEMS[kind].format(**mistake.get("ctx", {}))
        return told + " or `auto`" * (mistake["loc"][-1:] == (NUMBER,) and "number" in told)
    if kind == "list_type":
        harmless = isinstance(value, str) and not secret_in(value)
        return f"must be a list; {f'write `[{shown(value)}]`' if harmless else 'use brackets'}"
    if kind == "model_type":
        keys = _keys_beside((*mistake["loc"], ""), model)
        return f"must be a mapping of keys, such as `{keys[0]}`"
    message: str = mistake["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return message[:1].lower() + message[1:]


def _keys_beside(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Return the keys that are valid at the location of an unknown key."""
    part = model
    for name in location[:-1]:
        if isinstance(name, int):
            continue
        inner = part.model_fields[str(name)].annotation if str(name) in part.model_fields else None
        part = next(iter(_parts_in(inner)), part)
    return list(part.model_fields)


def _keys_elsewhere(name: str, model: type[BaseModel]) -> list[str]:
    """Return the key that has this name in another tool, or in one of the model's parts only."""
    parts = {key: _parts_in(field.annotation) for key, field in model.model_fields.items()}
    found = [
        key for key, names in OTHER_NAMES.items() if name in names and key.split(".")[0] in parts
    ]
    found = found or [
        f"{key}.{name}" for key in parts if any(name in part.model_fields for part in parts[key])
    ]
    return found if len(found) == 1 else []


def _parts_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the recipe parts in a type such as `AnchorSpec | None` or `list[DataSpec]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for inner in get_args(annotation) for part in _parts_in(inner)]
