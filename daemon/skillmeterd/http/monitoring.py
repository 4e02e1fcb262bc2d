"""Monitoring: the paths that machines ask for - the metrics, and whether the daemon is alive and can commit."""

from collections.abc import Callable

from ..sinks.exposition import OPENMETRICS, TEXT, openmetrics, text
from ..sinks.families import Family
from ..vitals import Vitals
from .messages import Request, Response, Route, Routes

NO_METRICS = (
    "the metrics are not served: prometheus is not among the backends;"
    " set ANALYTICS_BACKEND=prometheus, or add it after a comma, and start the daemon again"
)


def routes(vitals: Vitals, problem: Callable[[], str], scrape: Callable[[], list[Family]] | None) -> Routes:
    """`problem` says why nothing can be committed, or is empty; `scrape` makes the families, if they are wanted."""

    def ready(_: Request) -> Response:
        why = problem()
        orphans = {
            "recovered": vitals.orphans_recovered,
            "pending": vitals.orphans_pending,
            "first_round_done": vitals.first_round_done,
        }
        return Response.json({"ready": not why, "problem": why, "orphans": orphans}, 503 if why else 200)

    def metrics(request: Request) -> Response:
        if scrape is None:
            return Response.problem(404, NO_METRICS)
        families = scrape()
        if request.accepts("accept", "application/openmetrics-text") > request.accepts("accept", "text/plain"):
            return Response(200, openmetrics(families), OPENMETRICS)
        return Response(200, text(families), TEXT)

    return {
        "/healthz": Route(lambda _: Response.json({"alive": True}), is_open=True, is_quick=True),
        "/readyz": Route(ready, is_open=True, is_quick=True),
        "/metrics": Route(metrics, is_open=True),
    }
