"""API: what can be asked, as read-only JSON under /api/v1. The queries answer; this checks and translates."""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from skillmeter.errors import QueryError

from ..queries import METHODS, Queries
from ..queries.params import read
from ..queries.rollups import UnknownSkill
from .messages import Request, Response, Route, Routes
from .openapi import Endpoint, describe

PREFIX: Final = "/api/v1/"
MAX_FIELDS: Final = 32

QUERIES: Final[Mapping[str, str]] = {
    "leaderboard": "leaderboard",
    "usage": "usage",
    "metrics": "metrics",
    "health": "health_score",
    "trends": "trends",
    "adoption": "adoption",
    "recommendations": "recommend",
    "overview": "overview",
    "activity": "activity",
    "timeline": "timeline",
    "distribution": "distribution",
    "breakdown": "breakdown",
    "orgs": "orgs",
    "skills": "skills",
    "stats": "db_stats",
}
"""By the last part of the path: the query that answers."""

Status = Callable[[dict[str, Any]], dict[str, Any]]


def routes(queries: Queries, status: Status) -> Routes:
    """`status` is what `skillmeter status` shows; the ledger is a part of it."""
    described = Response.json(describe(PREFIX, [Endpoint(name, *METHODS[query]) for name, query in QUERIES.items()]))
    return {
        **{PREFIX + name: Route(_ask(queries, query)) for name, query in QUERIES.items()},
        f"{PREFIX}status": Route(_plain(lambda: status({}))),
        f"{PREFIX}ledger": Route(_plain(lambda: _ledger(status({})["ledger"]))),
        f"{PREFIX}openapi.json": Route(_plain(lambda: described)),
    }


def _ask(queries: Queries, method: str) -> Callable[[Request], Response]:
    def handler(request: Request) -> Response:
        try:
            params = _parameters(request.query)
            _check_given(method, params)
            found = queries.ask(method, params, strict=False)
            if found is None:  # of a known skill that is an answer, too
                queries.check_skill(params["skill_id"])
            return Response.json(found)
        except UnknownSkill as error:
            return Response.problem(404, str(error))
        except QueryError as error:
            return Response.problem(400, str(error))

    return handler


def _parameters(query: str) -> dict[str, str]:
    """What a query gives. What cannot be taken whole, as it stands, would be another question. Raises QueryError."""
    try:
        given = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise QueryError("the query is not UTF-8 behind its percent signs") from None
    except ValueError:
        raise QueryError(f"a query has at most {MAX_FIELDS} parameters") from None
    params: dict[str, str] = {}
    for name, value in given:
        if name in params:
            raise QueryError(f"{name[:40]!r} is given more than once")
        params[name] = value
    return params


def _check_given(method: str, params: Mapping[str, str]) -> None:
    """Raise QueryError for a number given as "null", which reading numbers from text takes for an absent one."""
    asked = read(METHODS[method][0], params, strict=False)
    for name, value in params.items():
        if getattr(asked, name) is None:
            raise QueryError(f"{name}: {value!r} is not a whole number")


def _ledger(counts: dict[str, Any]) -> Any:
    """The ledger, or a 503 when it cannot be read."""
    return Response.problem(503, f"the ledger {counts['problem']}", retry_after="5") if counts["problem"] else counts


def _plain(answer: Callable[[], Any]) -> Callable[[Request], Response]:
    """One that takes no parameters."""

    def handler(request: Request) -> Response:
        if request.query:
            return Response.problem(400, f"{request.path} takes no parameters")
        found = answer()
        return found if isinstance(found, Response) else Response.json(found)

    return handler
