"""sentence-transformers' Router: a module with a list of modules for queries and one for passages, each called a route.

Its router_config.json has "types" (the class of each module, by the module's path in the folder) and "structure" (the
paths of each route's modules, in order). A module that both routes name is loaded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from embedfit.errors import ModelError
from embedfit.models.architecture import DOCUMENT, QUERY
from embedfit.models.layout.files import JsonObject, read_json

CONFIG = "router_config.json"
#: A folder that lists more modules is no embedding model.
_MOST_MODULES = 64

#: The class and the path of each module, in order.
Listed = list[tuple[str, str]]


def read_routes(folder: Path, path: str) -> dict[str, Listed]:
    """The modules of the routes for queries and for passages, by the routes' names. path: the Router's own folder.

    Raises ModelError unless router_config.json has both routes and no rule that embedfit does not apply.
    """
    where = folder / path / CONFIG
    if not where.exists():
        where = folder / path / "config.json"  # the name in sentence-transformers before version 5
    config = read_json(where)
    types, structure, parameters = (_object(where, config, key) for key in ("types", "structure", "parameters"))
    missing = [route for route in (QUERY, DOCUMENT) if route not in structure]
    if missing:
        raise ModelError(
            f"{where} has no route {missing[0]!r}; its routes are {', '.join(map(repr, structure)) or 'none'}.",
            remedy="Save the model with Router.for_query_document(...) of sentence-transformers.",
        )
    if parameters.get("route_mappings"):
        raise ModelError(
            f"{where} sets route_mappings, which embedfit does not apply: it takes the routes 'query' and 'document'.",
            remedy="Save the model with Router.for_query_document(...) of sentence-transformers.",
        )
    default = parameters.get("default_route")
    if default is not None and default not in list(structure):
        raise ModelError(f"{where}: default_route is {default!r}, but there is no route of that name.")
    return {route: _modules(where, route, structure[route], types, path) for route in (QUERY, DOCUMENT)}


def _modules(where: Path, route: str, listed: JsonValue, types: JsonObject, path: str) -> Listed:
    if not isinstance(listed, list) or not 0 < len(listed) <= _MOST_MODULES:
        raise ModelError(f"{where}: the route {route!r} is not a list of modules.")
    found: Listed = []
    for name in listed:
        kind = types.get(name) if isinstance(name, str) else None
        if not isinstance(name, str) or not isinstance(kind, str):
            raise ModelError(f"{where}: the route {route!r} names the module {name!r}, whose type it does not give.")
        found.append((kind, f"{path}/{name}" if path else name))
    return found


def _object(where: Path, config: JsonObject, key: str) -> JsonObject:
    value = config.get(key, {})
    if not isinstance(value, dict):
        raise ModelError(f"{where}: {key!r} is not a JSON object.")
    return value


def router_config(query: Listed, document: Listed) -> Mapping[str, object]:
    """The content of router_config.json. query, document: the class and the path of each module."""
    return {
        "types": {path: kind for kind, path in (*query, *document)},
        "structure": {QUERY: [path for _, path in query], DOCUMENT: [path for _, path in document]},
        "parameters": {"default_route": DOCUMENT, "allow_empty_key": True, "route_mappings": {}},
    }
