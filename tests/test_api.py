"""The API: each path answers what the query says, refuses what is wrong, and is as its description says."""

import contextlib
import http.client
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from skillmeterd.http import Request, api
from skillmeterd.http.api import MAX_FIELDS, QUERIES
from skillmeterd.http.app import handle
from skillmeterd.queries import METHODS, Queries, reader
from skillmeterd.queries.params import Params, Skill
from skillmeterd.queries.reader import Snapshot
from skillmeterd.store import Store

from .support import HTTP, DaemonProcess, query, run_client

TOKEN = "correct-horse-battery-staple"
STRANGE = ["<img src=x onerror=alert(1)>", "null", "ünï & =?#/\n", "'; DROP TABLE skill; --", "__proto__"]


def foreign(path: Path) -> None:
    """Another program's database."""
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE notes (text)")


def move(folder: Path, source: str, target: str) -> None:
    """A database with its WAL, which SQLite would play into any that took its place."""
    for suffix in ("-wal", "-shm", ""):
        (folder / (source + suffix)).rename(folder / (target + suffix))


INSTEAD = {
    lambda path: path.unlink(missing_ok=True): ("unable to open", "there is no database"),
    lambda path: path.write_bytes(b"no database " * 1000): ("file is not a database",),
    foreign: ("no such table", "a database of another program"),
}
"""What stands in the database's place, and what the error may say."""

RECORD = """
import json
for name in ["parse_json", *json.loads(sys.argv[1])]:
    for number in range(5):
        client.record_skill_execution(name, number > 0, 10.0 * number, f"u{number}", "null", error_type="KeyError")
    client.record_skill_rating(name, 4, "u1")
assert client.flush(60)
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with HTTP on, and a few skills in it."""
    with DaemonProcess(tmp_path_factory.mktemp("api"), env=HTTP) as daemon:
        run_client(RECORD, daemon.env, json.dumps(STRANGE))
        yield daemon


@pytest.fixture(scope="module")
def described(daemon: DaemonProcess) -> Any:
    """The API's description of itself, read by schemathesis."""
    return schemathesis.openapi.from_url(f"{url(daemon)}/api/v1/openapi.json")


def url(daemon: DaemonProcess) -> str:
    """Where it listens."""
    address = urlsplit(daemon.ask("status")["http"])
    return f"http://127.0.0.1:{address.port}"


def get(daemon: DaemonProcess, name: str, *, method: str = "GET", token: str = "", **params: object) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    return ask(url(daemon), f"{name}?{urlencode(params)}", method=method, token=token)


def ask(base: str, target: str, *, method: str = "GET", token: str = "") -> tuple[int, Any]:
    """The same, of a path and query as they are, and a daemon by its address."""
    client = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)
    try:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        client.request(method, f"/api/v1/{target}", headers=headers)
        answer = client.getresponse()
        assert answer.headers["content-type"] == "application/json"
        return answer.status, json.loads(answer.read())
    finally:
        client.close()


def answer_schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    """How a path's answer is described."""
    answer = document["paths"][f"/api/v1/{name}"]["get"]["responses"]["200"]
    schema: dict[str, Any] = answer["content"]["application/json"]["schema"]
    return schema


def assert_described(value: Any, schema: dict[str, Any], named: dict[str, Any]) -> None:
    """An object has the keys that its schema names, and so have the objects in it."""
    schema = named[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if "properties" in schema:
        assert set(value) == set(schema["properties"])
        for key, part in schema["properties"].items():
            assert_described(value[key], part, named)


class TestAnswers:
    """What is asked rightly."""

    @pytest.mark.parametrize("name", QUERIES)
    def test_each_path_answers_what_the_query_says(self, daemon: DaemonProcess, name: str) -> None:
        """The JSON is that of the answer which clients get over ZeroMQ."""
        takes = METHODS[QUERIES[name]][0].__struct_fields__
        params = {key: value for key, value in {"skill_id": "parse_json", "user_id": "u9"}.items() if key in takes}
        status, answer = get(daemon, name, **params)
        assert status == 200
        if name not in ("stats", "activity", "timeline"):  # which speak of this moment
            assert answer == msgspec.json.decode(msgspec.json.encode(daemon.ask(QUERIES[name], params)))

    @pytest.mark.parametrize("skill", STRANGE)
    def test_strange_names_are_carried_literally(self, daemon: DaemonProcess, skill: str) -> None:
        """A name is a name, whatever is in it; "null" is not nothing."""
        status, usage = get(daemon, "usage", skill_id=skill, org_id="null")
        assert (status, usage["skill_id"], usage["org_id"], usage["execution_count"]) == (200, skill, "null", 5)

    def test_ledger_and_status(self, daemon: DaemonProcess) -> None:
        """The ledger balances and says what SQLite says; the status holds it."""
        status, ledger = get(daemon, "ledger")
        stored = query(daemon.db_path, "SELECT events FROM ledger WHERE outcome = 'stored'")[0][0]
        assert (status, ledger["balance"], ledger["stored"]) == (200, 0, stored)
        status, screen = get(daemon, "status")
        assert (status, screen["ledger"], screen["ready"]) == (200, ledger, True)


class TestRefusals:
    """What is asked wrongly."""

    @pytest.mark.parametrize(
        ("name", "params", "text"),
        [
            ("usage", {}, "skill_id is missing"),
            ("usage", {"skill_id": "parse_json", "days": "-1"}, "days: expected int >= 1"),
            ("usage", {"skill_id": "parse_json", "days": "many"}, "days: 'many' is not a whole number"),
            ("usage", {"skill_id": "x" * 257}, "skill_id"),
            ("usage", {"skill_id": "parse_json", "user": "u1"}, "there is no parameter 'user'"),
            ("leaderboard", {"days": "null"}, "days: 'null' is not a whole number"),
            ("leaderboard", {"metric": "luck"}, "metric must be one of usage_count, success_rate"),
            ("leaderboard", {"period": "hourly"}, "period must be one of all, daily"),
            ("leaderboard", {"period": "daily", "days": "3"}, "period or days, not both"),
            ("leaderboard", {"limit": "1001"}, "limit: expected int <= 1000"),
            ("recommendations", {}, "user_id"),
            ("ledger", {"days": "1"}, "takes no parameters"),
        ],
    )
    def test_wrong_parameters(self, daemon: DaemonProcess, name: str, params: dict[str, str], text: str) -> None:
        """400, and a sentence that names what is wrong."""
        status, answer = get(daemon, name, **params)
        assert status == 400
        assert text in answer["error"]

    @pytest.mark.parametrize(
        ("target", "text"),
        [
            ("usage?skill_id=parse_json&days=", "days: '' is not a whole number"),
            ("usage?skill_id=parse_json&org_id=", "org_id: expected str of length >= 1"),
            ("usage?skill_id=parse_json&org_id", "org_id: expected str of length >= 1"),
            ("leaderboard?period=", "period must be one of"),
            ("leaderboard?nothing=", "there is no parameter 'nothing'; there are limit, metric"),
            ("orgs?find=", "find: expected str of length >= 1"),
            ("status?nothing=", "takes no parameters"),
            ("usage?skill_id=null&skill_id=parse_json", "'skill_id' is given more than once"),
            ("usage?skill_id=parse_json&skill%5Fid=parse_json", "'skill_id' is given more than once"),
            ("usage?skill_id=%ff", "not UTF-8"),
            ("usage?skill_id=%ED%A0%80", "not UTF-8"),
            ("leaderboard?limit=1" + "&a=1" * MAX_FIELDS, f"at most {MAX_FIELDS} parameters"),
        ],
    )
    def test_nothing_is_left_out_or_guessed(self, daemon: DaemonProcess, target: str, text: str) -> None:
        """An answer to another question than the one that was asked would look just as right."""
        status, answer = ask(url(daemon), target)
        assert status == 400
        assert text in answer["error"]

    @pytest.mark.parametrize("name", [name for name, query in QUERIES.items() if issubclass(METHODS[query][0], Skill)])
    def test_unknown_skill(self, daemon: DaemonProcess, name: str) -> None:
        """404, with the name that may have been meant."""
        status, answer = get(daemon, name, skill_id="parse_jsn")
        assert status == 404
        assert "did you mean 'parse_json'" in answer["error"]

    def test_it_can_only_be_read(self, daemon: DaemonProcess) -> None:
        """Any method but GET and HEAD is refused, and an unknown path is not found."""
        assert [get(daemon, "orgs", method=method)[0] for method in ("POST", "PUT", "PATCH", "DELETE")] == [405] * 4
        assert get(daemon, quote("../../etc/passwd"))[0] == 404

    def test_without_its_database(self, tmp_path: Path) -> None:
        """503, and what to do, while it is away, no database, or another program's; when it is back, an answer."""
        names = ["leaderboard", "stats", "metrics?skill_id=parse_json", "ledger"]
        with DaemonProcess(tmp_path, env=HTTP) as daemon:
            run_client("record('u1'); assert client.flush(60)", daemon.env)
            base = url(daemon)
            assert [ask(base, name)[0] for name in names] == [200] * 4
            move(tmp_path, "analytics.db", "aside.db")
            for name in names:
                for put, texts in INSTEAD.items():
                    put(daemon.db_path)
                    status, answer = ask(base, name)
                    problem, _, advice = answer["error"].partition("; ")
                    assert (status, any(text in problem for text in texts), advice != "") == (503, True, True), answer
            daemon.db_path.unlink()
            move(tmp_path, "aside.db", "analytics.db")
            assert [ask(base, name)[0] for name in names] == [200] * 4

    def test_an_answer_that_takes_too_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is given up, and says what to do; the next question is answered."""

        def endless(at: Snapshot, _: Params) -> Any:
            return at.rows("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")

        Store.open(tmp_path / "analytics.db").close()
        monkeypatch.setattr(reader, "ANSWER_S", 0.1)
        monkeypatch.setitem(METHODS, "orgs", (Params, endless))
        with contextlib.closing(Queries(tmp_path / "analytics.db")) as queries:
            routes = api.routes(queries, lambda _: {})
            answer, body = handle(routes["/api/v1/orgs"], Request("/api/v1/orgs", "", {}))
            assert (answer.status, b"longer than 0.1 s" in body, b"fewer days" in body) == (503, True, True)
            assert handle(routes["/api/v1/skills"], Request("/api/v1/skills", "", {}))[0].status == 200

    def test_off_loopback_it_needs_the_token(self, tmp_path: Path) -> None:
        """Without the token, or with another one, nothing is said, not even the description."""
        env = {**HTTP, "PROMETHEUS_HOST": "0.0.0.0", "ANALYTICS_HTTP_TOKEN": TOKEN}
        with DaemonProcess(tmp_path, env=env) as daemon:
            for name in (*QUERIES, "status", "ledger", "openapi.json"):
                assert get(daemon, name)[0] == 401
                assert get(daemon, name, token="another")[0] == 401
            assert get(daemon, "orgs", token=TOKEN) == (200, [])
            assert TOKEN not in json.dumps(get(daemon, "status", token=TOKEN)[1])


class TestDescription:
    """OpenAPI."""

    def test_is_valid_and_complete(self, daemon: DaemonProcess, described: Any) -> None:
        """Every path is described, in the version that it says it is."""
        described.validate()
        status, document = get(daemon, "openapi.json")
        assert (status, document["openapi"]) == (200, "3.1.0")
        paths = {*QUERIES, "status", "ledger", "openapi.json"}
        assert set(document["paths"]) == {f"/api/v1/{path}" for path in paths}
        for schema in document["components"]["schemas"].values():
            assert jsonschema_rs.meta.is_valid(schema)

    def test_every_parameter_is_explained(self, daemon: DaemonProcess) -> None:
        """With its bounds, a default that is within them, and an example; the examples of a path can be asked for."""
        for path, operations in get(daemon, "openapi.json")[1]["paths"].items():
            parameters = operations["get"]["parameters"]
            for parameter in parameters:
                schema = parameter["schema"]
                assert parameter["description"]
                assert "default" not in schema or jsonschema_rs.is_valid(schema, schema["default"])
                assert {"enum", "maximum", "maxLength"} & schema.keys() or parameter["name"] == "after"
            examples = {parameter["name"]: parameter.get("example") for parameter in parameters}
            assert [name for name, example in examples.items() if example is None] in ([], ["days"])
            given = {name: example for name, example in examples.items() if example is not None}
            assert get(daemon, path.removeprefix("/api/v1/"), **given)[0] == 200

    def test_times_are_described_as_times(self, daemon: DaemonProcess) -> None:
        """What reads the description can take a time for one, and a day for a day; and the answers are that."""
        document = get(daemon, "openapi.json")[1]
        formats = {
            name: kind["format"]
            for schema in document["components"]["schemas"].values()
            for name, part in schema["properties"].items()
            for kind in (part, *part.get("anyOf", ()))
            if "format" in kind
        }
        times = ("first_used", "last_used", "last_rated", "start", "users_since", "errors_since", "oldest", "newest")
        assert formats == {"day": "date", **dict.fromkeys(times, "date-time")}
        for name in ("usage?skill_id=parse_json", "metrics?skill_id=parse_json", "activity", "stats"):
            schema = {**answer_schema(document, name.partition("?")[0]), "components": document["components"]}
            assert jsonschema_rs.is_valid(schema, ask(url(daemon), name)[1], validate_formats=True)

    @pytest.mark.parametrize("name", ["status", "ledger"])
    def test_every_part_of_the_status_is_described(self, daemon: DaemonProcess, name: str) -> None:
        """What is written by hand, without a type, has what the answer has, and nothing else."""
        document = get(daemon, "openapi.json")[1]
        schema = answer_schema(document, name)
        assert_described(get(daemon, name)[1], schema, document["components"]["schemas"])

    @pytest.mark.parametrize(
        ("name", "mode"),
        [(name, mode) for name, query in QUERIES.items() for mode in GenerationMode if METHODS[query][0] is not Params]
        + [(name, GenerationMode.POSITIVE) for name in ("stats", "status", "ledger", "openapi.json")],
    )
    def test_holds(self, described: Any, name: str, mode: GenerationMode) -> None:
        """Whatever is asked, rightly or wrongly, the answer is one that the description has, and never a 500."""
        path = described[f"/api/v1/{name}"]["GET"]

        @given(path.as_strategy(generation_mode=mode))
        @settings(max_examples=15, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
        def check(case: Any) -> None:
            not_both = {"period", "days"} <= set(case.query or {})  # which OpenAPI cannot say
            case.call_and_validate(excluded_checks=[positive_data_acceptance] if not_both else [])

        check()
