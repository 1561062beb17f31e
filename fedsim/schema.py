"""The JSON schema of experiment files, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim import catalogue
from fedsim.experiment import Experiment


def schema() -> dict[str, Any]:
    """Return the JSON schema of an experiment file, for editors."""
    tree = Experiment.model_json_schema(by_alias=True)
    names = ("Data", "Model", "Client", "Server")
    data, model, client, server = (tree["$defs"][f"{name}Section"] for name in names)
    _describe(data, "source", catalogue.SOURCES, "examples")
    data["properties"]["source"]["anyOf"] = [{"enum": list(catalogue.SOURCES)}, {"pattern": ":"}]
    _describe(data, "partition", catalogue.PARTITIONS, "enum")
    _describe(tree["$defs"]["TaskSection"], "name", catalogue.TASKS, "examples")
    _describe(model, "name", catalogue.MODELS, "examples")
    _describe(tree["$defs"]["AlgorithmSection"], "name", catalogue.ALGORITHMS, "examples")
    _describe(tree["$defs"]["TransformSection"], "name", catalogue.TRANSFORMS, "examples")
    server["properties"]["sampling"]["anyOf"] = [{"enum": list(catalogue.SAMPLINGS)}, {"pattern": ":"}]
    _describe(server, "strategy", catalogue.STRATEGIES, "examples", "options")
    _describe(server, "schedule", catalogue.ROUND_SCHEDULES, "examples", "schedule-options")
    _describe(client, "optimizer", catalogue.OPTIMIZERS, "examples", "optimizer-options")
    _describe(client, "schedule", catalogue.SCHEDULES, "examples", "schedule-options")
    data["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **tree}


def _describe(
    section: dict[str, Any], key: str, table: Mapping[str, catalogue.Entry], names: str, where: str = ""
) -> None:
    """Add a table's names, and each entry's options, to the schema of a section.

    The options are in their own table, `where`, or in the section itself.
    """
    section["properties"][key][names] = list(table)
    options = section["properties"]
    if where:
        options = options[where].setdefault("properties", {})
    for entry in table.values():
        for name, field in entry.options.model_json_schema(by_alias=True).get("properties", {}).items():
            field.pop("default", None)
            field["description"] = f"{entry.name}: {field.get('description', '')}"
            options[name] = {"anyOf": [*options.get(name, {"anyOf": []})["anyOf"], field]}
