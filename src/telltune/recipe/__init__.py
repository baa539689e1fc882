"""What a run is: one typed, checked recipe, YAML in and YAML out."""

from telltune.recipe.mistakes import explain
from telltune.recipe.reading import (
    AnyRecipe,
    as_recipe,
    load_recipe,
    read_yaml,
    recipe_from_dict,
)
from telltune.recipe.schema import (
    AnchorSpec,
    Columns,
    DataSpec,
    EngineName,
    EvaluationSpec,
    FewShotSpec,
    GeneralSpec,
    LoraSpec,
    LossAverage,
    MixtureSpec,
    ModelSpec,
    Order,
    OverPromptSpec,
    Recipe,
    TaskSpec,
    TrainingSpec,
)
from telltune.recipe.worth import (
    ConfidenceSpec,
    GeneralChoiceSpec,
    SelectionSpec,
    SynthesisSpec,
)

__all__ = [
    "AnchorSpec",
    "AnyRecipe",
    "Columns",
    "ConfidenceSpec",
    "DataSpec",
    "EngineName",
    "EvaluationSpec",
    "FewShotSpec",
    "GeneralChoiceSpec",
    "GeneralSpec",
    "LoraSpec",
    "LossAverage",
    "MixtureSpec",
    "ModelSpec",
    "Order",
    "OverPromptSpec",
    "Recipe",
    "SelectionSpec",
    "SynthesisSpec",
    "TaskSpec",
    "TrainingSpec",
    "as_recipe",
    "explain",
    "load_recipe",
    "read_yaml",
    "recipe_from_dict",
]
