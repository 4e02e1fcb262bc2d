"""OpenAPI: the description of the API, made from the types that check the questions and carry the answers."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec

from skillmeter._version import __version__

from ..queries.params import METRICS, PERIODS, Params

_ONE_OF: Final = {"metric": list(METRICS), "period": list(PERIODS)}
"""Parameters that are one of some names, which their type does not say."""

_ERRORS: Final = {
    "400": "A parameter is missing, wrong or unknown.",
    "401": "Off loopback, the token is missing or wrong.",
    "403": "Asked by a page of another site; or off loopback without ANALYTICS_HTTP_TOKEN being set.",
    "404": "Nothing was ever recorded of the skill.",
    "405": "Not GET or HEAD.",
    "421": "On loopback, the Host is not the daemon's.",
    "503": "The database cannot be read now, or the daemon is busy.",
}


class Endpoint(NamedTuple):
    """A path's last part, what it takes, and the function that answers."""

    name: str
    takes: type[Params]
    answer: Callable[..., Any]


def describe(prefix: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    answers = [get_type_hints(endpoint.answer)["return"] for endpoint in endpoints]
    schemas, components = msgspec.json.schema_components(answers, ref_template="#/components/schemas/{name}")
    paths = {
        prefix + endpoint.name: _path(endpoint.name, _first_line(endpoint.answer), _parameters(endpoint.takes), schema)
        for endpoint, schema in zip(endpoints, schemas, strict=True)
    }
    anything = {"type": "object"}
    counts = {
        "type": "object",
        "required": ["attempted", "stored", "pending", "dropped", "rejected", "balance", "reasons"],
    }
    paths[prefix + "status"] = _path("status", "The daemon: its health, ledger, sinks, database, spool.", [], anything)
    paths[prefix + "ledger"] = _path("ledger", "What became of every event: balance is 0 if all add up.", [], counts)
    paths[prefix + "openapi.json"] = _path("openapi", "This description.", [], anything)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "skillmeter",
            "version": __version__,
            "description": (
                "Read-only. Days are UTC, latencies are in milliseconds, rates are shares from 0 to 1."
                " A parameter that is unknown, empty or given twice is an error: nothing that was asked is left out."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Off loopback: ANALYTICS_HTTP_TOKEN."}
            },
        },
    }


_PROBLEM: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What is wrong, for people."}},
}


def _path(name: str, summary: str, parameters: list[Any], schema: Any) -> dict[str, Any]:
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "parameters": parameters,
            "responses": {
                "200": _content("The answer.", schema),
                **{code: _content(text, {"$ref": "#/components/schemas/Problem"}) for code, text in _ERRORS.items()},
            },
        }
    }


def _content(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _parameters(takes: type[Params]) -> list[dict[str, Any]]:
    """A struct's fields as parameters in the query. What is absent is None there, so None cannot be said."""
    _, components = msgspec.json.schema_components([takes])
    struct = components[takes.__name__]
    return [
        {"name": name, "in": "query", "required": name in struct["required"], "schema": _value(name, schema)}
        for name, schema in struct["properties"].items()
    ]


def _value(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    plain = next((kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}), schema)
    default = {"default": schema["default"]} if schema.get("default") not in (None, "") else {}
    return {**plain, **default, **({"enum": _ONE_OF[name]} if name in _ONE_OF else {})}


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").partition("\n")[0]
