"""Registry of the methods by name. To add a method, add a file and a line here."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from telltune.errors import RecipeError
from telltune.methods.base import BASE, BASE_ANCHOR
from telltune.methods.baselines import (
    CHOSEN_EM,
    COMBINED_EM,
    ENCODER_CENTROID,
    ENCODER_EM,
    ENCODER_LINEAR,
    KNN,
    PROBE,
    TFIDF_EM,
    TFIDF_LINEAR,
)
from telltune.methods.few_shot import (
    FEW_SHOT,
    FEW_SHOT_CALIBRATED,
    FEW_SHOT_NEAREST,
    FEW_SHOT_TEACHER,
)
from telltune.methods.over_prompt import OVER_PROMPT, OVER_PROMPT_TEACHER, SFT_OVER_PROMPT
from telltune.methods.rcl import RCL
from telltune.methods.self_sampled import TELL_SELF_SAMPLED, TELL_TEACHER_SAMPLED
from telltune.methods.trained import (
    GENERAL_ONLY,
    META,
    MIX,
    SELF_GUIDE,
    SFT,
    SFT_ANCHOR,
    SFT_ANCHOR_STEPS,
    SFT_PRODUCT,
    SFT_PSEUDO_LABEL,
    SFT_PSEUDO_LABEL_PRODUCT,
    TELL,
    TELL_META,
    TELL_ORDERS,
    TELL_VALUED,
)
from telltune.plugins import load_plugins

if TYPE_CHECKING:
    from telltune.fitting.protocol import Method

_ALL: tuple[Method, ...] = (
    *(BASE, BASE_ANCHOR, FEW_SHOT, FEW_SHOT_NEAREST, FEW_SHOT_CALIBRATED, FEW_SHOT_TEACHER),
    *(OVER_PROMPT, OVER_PROMPT_TEACHER, SFT_OVER_PROMPT),
    *(SFT, SFT_ANCHOR, SFT_ANCHOR_STEPS, SFT_PSEUDO_LABEL, SFT_PRODUCT, SFT_PSEUDO_LABEL_PRODUCT),
    *(
        TFIDF_LINEAR,
        TFIDF_EM,
        ENCODER_CENTROID,
        ENCODER_LINEAR,
        ENCODER_EM,
        COMBINED_EM,
        CHOSEN_EM,
        KNN,
        PROBE,
    ),
    *(GENERAL_ONLY, MIX, TELL, *TELL_ORDERS, TELL_SELF_SAMPLED, TELL_TEACHER_SAMPLED),
    *(META, TELL_META, RCL, SELF_GUIDE, *TELL_VALUED),
)
_METHODS = {method.name: method for method in _ALL}


def register_method(method: Method) -> Method:
    """Add a method from a plugin.

    Raises:
        RecipeError: Another method has its name.
    """
    if _METHODS.get(method.name, method) != method:
        raise RecipeError(f"method `{method.name}` is already registered; choose another name.")
    _METHODS[method.name] = method
    return method


def method_names() -> list[str]:
    """Return the names of all methods, the simplest first and those of plugins last."""
    load_plugins()
    return list(_METHODS)


def get_method(name: str) -> Method:
    """Return the method with a name.

    Raises:
        RecipeError: There is no method of that name.
    """
    load_plugins()
    if name not in _METHODS:
        near = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(_METHODS)}."
        raise RecipeError(f"there is no method `{name}`; {hint}")
    return _METHODS[name]
