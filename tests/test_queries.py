"""Queries: each answer equals a plain recomputation from the raw events, over random histories around midnight UTC."""

import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeter.errors import QueryError
from skillmeter.events import Event, Execution, Health, Rating
from skillmeter.results import LeaderboardEntry, SkillUsage
from skillmeterd.errors import StoreUnavailable
from skillmeterd.queries import METHODS, Queries, board, events, recommend
from skillmeterd.queries.params import METRICS, PERIODS
from skillmeterd.queries.rollups import Percentiles, percentiles
from skillmeterd.sketch import Sketch

from .histories import (
    MIDNIGHT_NS,
    NOW_NS,
    ORGS,
    SKILLS,
    Chapter,
    Record,
    check_life,
    lives,
    nows,
    questions,
    recorded,
    run,
)
from .recomputation import DAY_NS


class TestAgainstRawEvents:
    """Random lives of a database: days pass, late and early events come, it restarts, old events are deleted."""

    def test_all(self) -> None:
        """No question about events is left out; the other is of journals, and tested with the import that asks it."""
        assert METHODS.keys() == questions.keys() | {"committed"}

    @pytest.mark.parametrize("method", questions)
    @given(st.data(), lives, nows)
    @settings(max_examples=40)
    def test_each_question(self, method: str, data: st.DataObject, life: list[Chapter], now_ns: int) -> None:
        """Some questions of a kind, each asked after every chapter."""
        asked = data.draw(st.lists(questions[method], min_size=1, max_size=4))
        check_life(life, [(method, params) for params in asked], now_ns)

    @pytest.mark.parametrize("metric", METRICS)
    @given(lives, st.sampled_from(ORGS), nows)
    @settings(max_examples=20)
    def test_each_metric(self, metric: str, life: list[Chapter], org: str | None, now_ns: int) -> None:
        """The leaderboard by each, in all four periods."""
        asked = [("leaderboard", {"metric": metric, "period": period, "org_id": org}) for period in PERIODS]
        check_life(life, asked, now_ns)


def at(time_ns: int) -> datetime.datetime:
    """A time as results have it."""
    return datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(microseconds=time_ns // 1000)


class TestHonestRanking:
    """Little evidence does not win."""

    def test_success_rate(self) -> None:
        """990 of 1000 is before 2 of 2."""
        many = [run("many", success=index >= 10) for index in range(1000)]
        with recorded([*many, run("few"), run("few")]) as record:
            assert self.order(record, "success_rate") == ["many", "few"]

    def test_rating(self) -> None:
        """Forty ratings of 4.5 in the mean are before a single 5."""
        rated = [Rating(NOW_NS, "good", None, None, 4 + index % 2) for index in range(40)]
        bad = [Rating(NOW_NS, "bad", None, None, 2)] * 40
        with recorded([*rated, *bad, Rating(NOW_NS, "new", None, None, 5)]) as record:
            assert self.order(record, "rating") == ["good", "new", "bad"]

    def test_performance(self) -> None:
        """The p95 of twenty runs is before that of nineteen which were faster."""
        with recorded([*[run("tried")] * 20, *[run("hardly", latency_ms=1.0)] * 19]) as record:
            assert self.order(record, "performance") == ["tried", "hardly"]

    @pytest.mark.parametrize("metric", ["success_rate", "rating"])
    def test_ties(self, metric: str) -> None:
        """Of skills that are equal in all but how floats are rounded, the one with more executions is first."""
        failures = [run(f"{number}", success=False) for number in range(1, 30) for _ in range(number)]
        means = [Rating(NOW_NS, f"{number}", None, None, n) for number in range(1, 30) for n in (3, 4, 4) * number]
        with recorded([*failures, *means]) as record:
            assert self.order(record, metric) == [str(number) for number in range(29, 0, -1)]

    @pytest.mark.parametrize("org", [None, "o1"])
    @pytest.mark.parametrize("metric", METRICS)
    def test_the_first_few(self, metric: str, org: str | None) -> None:
        """Wherever the list is cut: among equals, and between those with enough runs and those with few."""
        runs = [
            run(skill, user=f"u{number}", org="o1", latency_ms=latency_ms)
            for skill, count, latency_ms in [
                ("e", 21, 9.0),
                ("d", 20, 2.0),
                ("c", 2, 1.0),
                ("b", 2, 1.0),
                ("a", 2, 1.0),
            ]
            for number in range(count)
        ]
        ratings = [Rating(NOW_NS, skill, None, "o1", 3) for skill in "dcba"]
        with recorded([*runs, *ratings]) as record:
            for limit in range(1, 6):
                record.check("leaderboard", {"metric": metric, "limit": limit, "org_id": org})

    @pytest.mark.parametrize("metric", METRICS)
    def test_only_what_is_shown_is_looked_at_closely(self, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Percentiles, the dearest of all to compute, are those of the first few, or of what may be among them."""
        looked_at: list[Sketch] = []

        def looked(sketch: Sketch) -> Percentiles:
            looked_at.append(sketch)
            return percentiles(sketch)

        monkeypatch.setattr(board, "percentiles", looked)
        runs = [run(f"s{number}", user="u1") for number in range(40) for _ in range(20 if number < 5 else 1)]
        ratings = [Rating(NOW_NS, f"s{number}", None, None, 3) for number in range(40)]
        with recorded([*runs, *ratings]) as record:
            record.ask("leaderboard", {"metric": metric, "limit": 4})
        assert len(looked_at) == (5 if metric == "performance" else 4)

    @staticmethod
    def order(record: Record, metric: str) -> list[str]:
        """The skills from the first place on."""
        return [entry.skill_id for entry in record.ask("leaderboard", {"metric": metric, "limit": 100})]


class TestReasons:
    """A recommendation says why, truly."""

    def test_collaborative(self) -> None:
        """The reason counts the similar users and what they share."""
        used = {"u1": "ab", "u2": "abc", "u3": "ac"}
        events = [run(skill, user=user) for user, skills in used.items() for skill in skills]
        with recorded(events) as record:
            (found,) = record.ask("recommend", {"user_id": "u1"})
        assert (found.skill_id, found.score) == ("c", 3.0)
        assert found.reason == "used by 2 users who share up to 2 skills with this one"

    def test_of_equals_what_more_users_have_comes_first(self) -> None:
        """Two who share one skill weigh as much as one who shares two, and come before."""
        used = {"me": "ab", "u1": "aby", "u2": "az", "u3": "az"}
        with recorded([run(skill, user=user) for user, skills in used.items() for skill in skills]) as record:
            found = record.ask("recommend", {"user_id": "me"})
        assert [(entry.skill_id, entry.score) for entry in found] == [("z", 2.0), ("y", 2.0)]

    def test_trending(self) -> None:
        """The reason gives both weeks."""
        with recorded([run(ago=8), run(), run()]) as record:
            (found,) = record.ask("recommend", {"user_id": "nobody"})
        assert (found.kind, found.reason) == ("trending", "2 executions in the last 7 days, 1 in the 7 days before")


class TestManyUsers:
    """More users than a recommendation looks at."""

    @given(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.sampled_from([None, "o1"])), min_size=60),
        st.sampled_from([None, "o1"]),
    )
    @settings(max_examples=30)
    def test_the_most_similar_ones_count(self, uses: list[tuple[int, int, str | None]], org: str | None) -> None:
        """The 20 that share most; of equals, those who were seen first."""
        used = [run("abcde"[skill], user=f"u{user}", org=of) for user, skill, of in uses]
        with recorded([run("a", user="u0", org="o1")], used) as record:
            record.check("recommend", {"user_id": "u0", "org_id": org, "limit": 10})

    def test_of_equals_the_first_count(self) -> None:
        """Of 25 users who share one skill the first 20 are looked at."""
        others = [run(skill, user=f"u{n}") for n in range(25) for skill in ("a", f"{n:02}")]
        with recorded([run("a", user="me")], others) as record:
            found = record.ask("recommend", {"user_id": "me", "limit": 20})
            assert [entry.skill_id for entry in found] == [f"{n:02}" for n in range(20)]

    def test_rare_skills_come_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When there are too many users to look at all, those of the least executed skills are looked at."""
        monkeypatch.setattr(recommend, "MAX_ROWS", 2)
        common = [run("common", user=user) for user in ("me", "c", "c", "c")] + [run("of c", user="c")]
        rare = [run("rare", user=user) for user in ("me", "r1", "r2")] + [run("of r", user="r1")]
        with recorded([*common, *rare]) as record:
            found = record.ask("recommend", {"user_id": "me"})
            assert [(entry.skill_id, entry.kind) for entry in found] == [
                ("of r", "collaborative"),
                ("of c", "trending"),
            ]


class TestEvents:
    """The record itself, as `tail` and `export` read it."""

    @given(lives, st.sampled_from([None, *SKILLS]), st.sampled_from(ORGS))
    @settings(max_examples=40)
    def test_are_those_that_were_committed(self, life: list[Chapter], skill: str | None, org: str | None) -> None:
        """In that order, each once, but for those that were deleted; of all skills and orgs, or of one."""
        with pytest.MonkeyPatch.context() as patch, recorded() as record:
            patch.setattr(events, "PIECE", 3)
            patch.setattr(events, "LOOK", 5)
            for chapter in life:
                chapter.happen(record)
                reader = record.queries.reader
                pieces = events.pieces(reader, *events.span(reader), skill_id=skill, org_id=org)
                found = [row[1:] for _, rows in pieces for row in rows]
                kept = record.events[len(record.events) - record.kept :]
                assert found == [
                    row for row in map(self.row, kept) if skill in (None, row[2]) and org in (None, row[4])
                ]

    @staticmethod
    def row(event: Event) -> tuple[object, ...]:
        """The columns after the id."""
        who = None if isinstance(event, Health) else event.user_id
        org = None if isinstance(event, Health) else event.org_id
        kind = type(event).__name__.lower()
        head = (event.recorded_at_ns, kind, event.skill_id, who, org)
        if isinstance(event, Execution):
            return (*head, int(event.success), event.latency_ms, None, None, event.error_type, None, None)
        if isinstance(event, Rating):
            return (*head, None, None, event.rating, None, None, None, None)
        return (*head, None, None, None, event.score, None, None, None)


class TestUsersInAnyOrder:
    """Different users are counted exactly, whenever their events come."""

    def test_who_comes_back_is_counted_once(self) -> None:
        """A user of three days is one user of the week, and one of each day."""
        with recorded([run(ago=2, user="u1")], [run(ago=1, user="u1")], [run(user="u1")]) as record:
            assert record.ask("usage", {"skill_id": "a", "days": 7}).unique_users == 1
            assert self.by_day(record) == [1, 1, 1]

    def test_a_late_event(self) -> None:
        """A day that is filled in later counts its user once, in whichever orgs he was."""
        late = [run(ago=1, user="u1", org="o1"), run(ago=1, user="u1", org="o2"), run(ago=1, user="u2")]
        with recorded([run(user="u1", org="o1")], *([event] for event in late)) as record:
            assert self.by_day(record) == [0, 2, 1]
            assert record.ask("usage", {"skill_id": "a", "days": 7}).unique_users == 2

    @staticmethod
    def by_day(record: Record) -> list[int]:
        """The users of the last three days."""
        return [point.unique_users for point in record.ask("trends", {"skill_id": "a", "days": 3})]


class TestBadQuestions:
    """What is wrong is said, by name."""

    @pytest.mark.parametrize(
        ("method", "params", "message"),
        [
            ("usage", {"skill_id": "parse_jsn"}, "a skill 'parse_jsn'; did you mean 'parse_json'?"),
            ("usage", {"skill_id": "\u89e3\u6790"}, "of a skill '\u89e3\u6790'"),
            ("usage", {"skill_id": "\u202ex\n"}, "of a skill '\\u202ex\\n'"),
            ("trends", {"skill_id": "x"}, "nothing was recorded of a skill 'x'"),
            ("adoption", {"skill_id": "x"}, "nothing was recorded of a skill 'x'"),
            ("usage", {"skill_id": "parse_json", "days": -1}, "days: expected int >= 1"),
            ("usage", {"skill_id": "parse_json", "days": 10**9}, "days: expected int <= 3660"),
            ("usage", {"skill_id": "parse_json", "days": "7"}, "days: expected int, got str"),
            ("usage", {"skill_id": 7}, "skill_id: expected str, got int"),
            ("usage", {"skill_id": ""}, "skill_id: expected str of length >= 1"),
            ("usage", {}, "skill_id is missing"),
            (
                "usage",
                {"skill_id": "a", "colour": "red"},
                "there is no parameter 'colour'; there are skill_id, org_id, days",
            ),
            ("db_stats", {"days": 1}, "there is no parameter 'days'; none is taken"),
            ("leaderboard", {"metric": "beauty"}, "metric must be one of usage_count, success_rate, rating, adoption"),
            ("leaderboard", {"period": "yearly"}, "period must be one of all, daily, weekly, monthly, not 'yearly'"),
            ("leaderboard", {"period": "daily", "days": 2}, "give period or days, not both"),
            ("leaderboard", {"limit": 0}, "limit: expected int >= 1"),
            ("recommend", {"user_id": None}, "user_id: expected str, got null"),
            ("beauty", {}, "there is no query 'beauty'; there are usage, "),
        ],
    )
    def test_message(self, method: str, params: dict[str, Any], message: str) -> None:
        """Each mistake has its message."""
        with recorded([run("parse_json")]) as record, pytest.raises(QueryError) as raised:
            record.ask(method, params)
        assert message.lower() in str(raised.value).lower()

    def test_among_very_many_skills_one_may_have_been_meant(self) -> None:
        """Also one that is far from the first of them."""
        with recorded([run(f"skill {number:04}") for number in range(2000)]) as record:
            for name in ("skill 0000", "skill 1000", "skill 1999"):
                with pytest.raises(QueryError, match=f"did you mean '{name}'"):
                    record.ask("usage", {"skill_id": f"{name}x"})

    def test_unknown_is_none_where_none_is_an_answer(self) -> None:
        """Metrics and health of an unknown skill are None; an unknown org has used nothing."""
        with recorded([run("a")]) as record:
            assert record.ask("metrics", {"skill_id": "x"}) is None
            assert record.ask("health_score", {"skill_id": "x"}) is None
            assert record.ask("leaderboard", {"org_id": "x"}) == []
            assert record.ask("usage", {"skill_id": "a", "org_id": "x"}).execution_count == 0

    def test_no_database(self, tmp_path: Path) -> None:
        """Without a file the error says so."""
        with pytest.raises(StoreUnavailable, match="there is no database"):
            Queries(tmp_path / "none.db").ask("db_stats")

    def test_numbers_as_text(self) -> None:
        """From a URL, numbers come as text."""
        with recorded([run("a")]) as record:
            assert record.ask("usage", {"skill_id": "a", "days": "7"}, strict=False).period_days == 7


class TestBoundaries:
    """Midnight, nothing, and other files."""

    @pytest.mark.parametrize("ask", [name for name, (kind, _) in METHODS.items() if not kind.__struct_fields__[:1]])
    def test_empty(self, ask: str) -> None:
        """An empty database answers."""
        with recorded() as record:
            assert record.ask(ask) is not None

    def test_empty_leaderboard(self) -> None:
        """Nobody has a place where nothing happened."""
        with recorded() as record:
            assert record.ask("leaderboard") == []
            assert record.ask("recommend", {"user_id": "u1"}) == []

    def test_daily_begins_at_midnight(self) -> None:
        """A nanosecond before midnight UTC is yesterday."""
        first, last = run("a"), run("a")
        first.recorded_at_ns, last.recorded_at_ns = MIDNIGHT_NS, MIDNIGHT_NS - 1
        with recorded([first, last]) as record:
            (entry,) = record.ask("leaderboard", {"period": "daily"})
        assert entry.executions == 1

    def test_another_database_in_its_place(self) -> None:
        """What was remembered of one file is not said of another."""
        with recorded([run("a", ago=1)]) as record, recorded([run("b", ago=1)] * 2) as others:
            assert record.ask("leaderboard", {"period": "weekly"})[0].executions == 1
            path = record.store.path
            for recorder in (record, others):
                recorder.store.close()
            for suffix in ("-wal", "-shm"):  # which the connection that is still open has kept
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            others.store.path.replace(path)
            (entry,) = record.ask("leaderboard", {"period": "weekly"})
        assert (entry.skill_id, entry.executions) == ("b", 2)

    def test_health_scores_of_one_time(self) -> None:
        """The one that was committed last counts; an earlier one that comes late does not."""
        with recorded([Health(NOW_NS, "a", 1.0)], [Health(NOW_NS, "a", 2.0)], [Health(NOW_NS - 1, "a", 3.0)]) as record:
            assert record.ask("metrics", {"skill_id": "a"}).health_score == 2.0

    def test_stats(self) -> None:
        """Rows, names and times of what is kept."""
        with recorded([run("a", 1, "u1", "o1"), run("b", 0, "u2", "o1")]) as record:
            found = record.ask("db_stats")
        assert (found.events, found.skills, found.orgs, found.users, found.producers) == (2, 2, 1, 2, 1)
        assert (found.oldest, found.newest) == (at(NOW_NS - DAY_NS), at(NOW_NS))
        assert found.database_bytes > 0


def test_results_travel() -> None:
    """A result is the same after msgpack, and plain as a dict."""
    with recorded([run("a", user="u1", org="o1")]) as record:
        for answer, kind in (
            (record.ask("usage", {"skill_id": "a"}), SkillUsage),
            (record.ask("leaderboard")[0], LeaderboardEntry),
        ):
            assert msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(answer)), kind) == answer
            assert answer.to_dict()["skill_id"] == "a"
