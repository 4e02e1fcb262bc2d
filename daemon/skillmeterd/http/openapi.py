"""OpenAPI: the description of the API, made from the types that check the questions and carry the answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args, get_type_hints

import msgspec

from skillmeter._version import __version__

from ..queries.params import METRICS, PERIODS, Params, Skill
from ..vitals import Vitals
from .messages import MAX_HEAD_BYTES


class About(NamedTuple):
    """What a parameter's type does not say."""

    text: str
    example: str | int
    one_of: Sequence[str] = ()


_PARAMETERS: Final[Mapping[str, About]] = {
    "skill_id": About("The skill, by its name, literally.", "parse_json"),
    "org_id": About("Only what was recorded in this org. Without it: all orgs, and what was recorded in none.", "acme"),
    "user_id": About("The user, by the name that was recorded, literally.", "u1"),
    "days": About("The last days, UTC, today included.", 7),
    "limit": About("At most so many.", 20),
    "metric": About("What the skills are ranked by.", "success_rate", METRICS),
    "period": About(
        "Today, the last 7 days, the last 30, or all, which it is without it. Not together with days.",
        "weekly",
        tuple(PERIODS),
    ),
    "after": About("Only names that come after this one: the last of one answer is where the next begins.", "a"),
    "find": About("Only names that have this in them, where A to Z are the same as a to z.", "JSON"),
}

_ERRORS: Final = {
    "400": "A parameter is missing, wrong, unknown, empty or given twice.",
    "401": "Off loopback, the token is missing or wrong.",
    "403": "Asked by a page of another site; or off loopback without ANALYTICS_HTTP_TOKEN being set.",
    "404": "Nothing was ever recorded of the skill.",
    "405": "Not GET or HEAD.",
    "421": "On loopback, the Host is not the daemon's.",
    "431": f"The request's first line and headers have more than {MAX_HEAD_BYTES} bytes.",
    "503": "The database cannot be read now, the answer took too long and was given up, or the daemon is busy.",
}
_ERROR_HEADERS: Final = {
    "401": {"www-authenticate": "The scheme: Bearer."},
    "405": {"allow": "GET, HEAD"},
    "503": {"retry-after": "After how many seconds to ask again."},
}


class Endpoint(NamedTuple):
    """A path's last part, what it takes, and the function that answers."""

    name: str
    takes: type[Params]
    answer: Callable[..., Any]


def describe(prefix: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    answers = [_answer_type(endpoint.answer) for endpoint in endpoints]
    schemas, components = msgspec.json.schema_components([*answers, Vitals], ref_template="#/components/schemas/{name}")
    paths = {prefix + of.name: _path(of, schema) for of, schema in zip(endpoints, schemas, strict=False)}
    for name, summary, schema in (
        ("status", "The daemon: its health, ledger, sinks, database, spool.", _status(schemas[-1])),
        ("ledger", "What became of every event: balance is 0 if all add up.", _ledger(_COUNT)),
        ("openapi.json", "This description.", {"type": "object"}),
    ):
        paths[prefix + name] = _operation(name.partition(".")[0], summary, [], schema)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "skillmeter",
            "version": __version__,
            "description": (
                "Read-only: GET, and HEAD, which is answered alike. Days are UTC, latencies are in milliseconds,"
                " rates are shares from 0 to 1. A parameter that is unknown, empty or given twice is an error:"
                " nothing that was asked is left out."
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


def _answer_type(answer: Callable[..., Any]) -> Any:
    """Where a struct can be None, that stands for a skill that nobody knows, which is a 404."""
    hint = get_type_hints(answer)["return"]
    structs = [kind for kind in get_args(hint) if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    return structs[0] if type(None) in get_args(hint) and structs else hint


# Operations.


def _path(of: Endpoint, schema: Any) -> dict[str, Any]:
    summary = (of.answer.__doc__ or "").partition("\n")[0].partition(" Raises ")[0]
    return _operation(of.name, summary, _parameters(of.takes), schema, has_skill=issubclass(of.takes, Skill))


def _operation(
    name: str, summary: str, parameters: list[Any], schema: Any, *, has_skill: bool = False
) -> dict[str, Any]:
    problem = {"$ref": "#/components/schemas/Problem"}
    errors = {code: text for code, text in _ERRORS.items() if code != "404" or has_skill}
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "parameters": parameters,
            "responses": {
                "200": _response("The answer.", schema, {}),
                **{code: _response(text, problem, _ERROR_HEADERS.get(code, {})) for code, text in errors.items()},
            },
        }
    }


def _response(description: str, schema: Any, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": schema}},
        "headers": {name: {"description": text, "schema": _TEXT} for name, text in headers.items()},
    }


def _parameters(takes: type[Params]) -> list[dict[str, Any]]:
    """A struct's fields as parameters in the query. All examples together are a question that has an answer."""
    _, components = msgspec.json.schema_components([takes])
    struct = components[takes.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in struct["required"],
            "description": _PARAMETERS[name].text,
            **({} if name == "days" and "period" in struct["properties"] else {"example": _PARAMETERS[name].example}),
            "schema": _value(schema, _PARAMETERS[name].one_of),
        }
        for name, schema in struct["properties"].items()
    ]


def _value(schema: dict[str, Any], one_of: Sequence[str]) -> dict[str, Any]:
    """What is absent is None in a struct, so None cannot be said."""
    plain = next((kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}), schema)
    default = {"default": schema["default"]} if schema.get("default") is not None else {}
    return {**plain, **default, **({"enum": list(one_of)} if one_of else {})}


# Answers that have no type.


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_COUNT: Final = {"type": "integer"}
_COUNT_OR_NULL: Final = {"type": ["integer", "null"]}
_WHY: Final = {"type": "string", "description": "Why it cannot be looked at, its numbers being null; or empty."}
_PROBLEM: Final = _object(error={"type": "string", "description": "What is wrong, for people."})


def _ledger(count: Any) -> dict[str, Any]:
    reasons = {"type": "object", "additionalProperties": _COUNT, "description": 'Such as "dropped.spool_full".'}
    outcomes = dict.fromkeys(("attempted", "stored", "pending", "dropped", "rejected", "balance"), count)
    return _object(**outcomes, reasons=reasons, problem=_WHY)


def _status(vitals: Any) -> dict[str, Any]:
    sink = _object(
        healthy={"type": "boolean"},
        exports=_COUNT,
        failures=_COUNT,
        last_success_ns=_COUNT_OR_NULL,
        last_failure_ns=_COUNT_OR_NULL,
        problem=_TEXT,
    )
    return _object(
        version=_TEXT,
        pid=_COUNT,
        endpoint=_TEXT,
        http={"type": ["string", "null"]},
        sinks={"type": "object", "additionalProperties": sink, "description": "By backend; some say more."},
        ready={"type": "boolean"},
        backends=_TEXTS,
        metric_labels=_TEXTS,
        vitals=vitals,
        ledger=_ledger(_COUNT_OR_NULL),
        database=_object(path=_TEXT, bytes=_COUNT_OR_NULL, wal_bytes=_COUNT_OR_NULL, problem=_WHY),
        spool=_object(
            path=_TEXT, journals=_COUNT_OR_NULL, bytes=_COUNT_OR_NULL, quarantined=_COUNT_OR_NULL, problem=_WHY
        ),
    )
