"""JSON Schema of recipes and studies, with which editors complete and check their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import core_schema


class _WithShorthands(GenerateJsonSchema):
    """Generator that also accepts what validators turn into the described value.

    pydantic describes only the value behind a `BeforeValidator`. Here these turn a text into a
    mapping, such as `model: embedded`, and one value into a list.
    """

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        described = super().function_before_schema(schema)
        if schema["function"]["type"] == "with-info":  # It refuses values and turns none.
            return described
        one = [described["items"]] if described.get("type") == "array" else []
        return {"anyOf": [described, *one, {"type": "string"}]}


def json_schema(described: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of `Recipe` or `StudySpec`, shorthands included."""
    schema = described.model_json_schema(schema_generator=_WithShorthands)
    keys = schema["properties"]
    if "general" in keys:
        # The data sets of `general: [a.jsonl, b.jsonl]` are its `sources`.
        keys["general"]["anyOf"] += schema["$defs"]["GeneralSpec"]["properties"]["sources"]["anyOf"]
    if "recipe" in keys:
        # A study has the keys of its recipe, or the name of a file with them.
        recipe = keys.pop("recipe")
        keys["recipe"] = {"description": recipe["description"], "type": ["object", "string"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
