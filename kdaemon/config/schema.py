"""The JSON schema of a configuration file, made from the kinds of its keys.

For editors and for programs that write configurations: names, kinds, bounds and defaults of single
values. `kdaemon check` checks the rest: rules between keys, and paths and addresses as far as a
pattern cannot describe them. Pure. Where it sits: `kdaemon config --schema`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from kdaemon.config.keys import KEYS, STREAM_KEYS, TABLES, UPSTREAM_KEYS, Key
from kdaemon.config.settings import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """Of a whole file, as a value that JSON can write."""
    config = Config()
    top: dict[str, Any] = {
        path[0]: _of_key(key, getattr(config, path[0]))
        for path, key in KEYS.items()
        if len(path) == 1
    }
    for table in sorted(TABLES):
        keys = {path[1]: key for path, key in KEYS.items() if len(path) == 2 and path[0] == table}
        top[table] = _table(keys, getattr(config, table))
    top["upstreams"] = {"type": "object", "additionalProperties": _table(UPSTREAM_KEYS, None)}
    top["streams"] = {"type": "object", "additionalProperties": _table(STREAM_KEYS, None)}
    return {
        "$schema": DIALECT,
        "title": "Configuration of kdaemon",
        "type": "object",
        "additionalProperties": False,
        "properties": top,
    }


def _table(keys: Mapping[str, Key], defaults: object) -> dict[str, Any]:
    properties = {name: _of_key(key, getattr(defaults, name, None)) for name, key in keys.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _of_key(key: Key, default: Any) -> dict[str, Any]:
    """`default`: None: [send] or [default] says."""
    schema: dict[str, Any] = _plain(msgspec.json.schema(key.kind))
    schema["description"] = f"{key.about.meaning} Expected: {key.expected}."
    if default is not None and not key.about.follows:
        schema["default"] = list(default) if isinstance(default, tuple) else default
    return schema


def _plain(schema: Any) -> Any:
    r"""Patterns as JSON schema has them: `\Z`, where a text ends, is Python's."""
    if isinstance(schema, dict):
        return {
            name: part.replace(r"\Z", "$") if name == "pattern" else _plain(part)
            for name, part in schema.items()
        }
    return schema
