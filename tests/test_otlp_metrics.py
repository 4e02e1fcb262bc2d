"""OTLP metrics: families become cumulative metrics of bounded size, as a decoder reads them back."""

from collections.abc import Iterable

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from skillmeterd.sinks.families import Family, Histogram, Point
from skillmeterd.sinks.otlp_metrics import Sent, attributes, pieces, rows

from .otlp_receiver import attributes as plain_attributes
from .otlp_receiver import every_metric, series

NOW_NS = 1_700_000_000_000_000_000
BORN_NS = NOW_NS - 5_000_000_000

COUNTER = Family("c", "counter", "Counts.", [Point({"skill_id": "a", "org_id": "o"}, 7, BORN_NS)])
GAUGE = Family("g", "gauge", "Is.", [Point({"skill_id": "a"}, 0.5)])
HISTOGRAM = Family(
    "h_milliseconds", "histogram", "Took.", [Histogram({"skill_id": "a"}, (1, 0, 2), 61.5, BORN_NS)], "ms", (10, 50)
)


def encoded(families: Iterable[Family], max_points: int = 1000) -> list[ExportMetricsServiceRequest]:
    """The requests, decoded again."""
    resource = Resource(attributes=attributes([("service.name", "toolweaver")]))
    return [
        ExportMetricsServiceRequest.FromString(piece.body)
        for piece in pieces(rows(families), resource, NOW_NS, max_points)
    ]


def test_a_counter_is_a_cumulative_monotonic_sum_since_its_series_began() -> None:
    """Its start is the series' own, not the daemon's, so that no restart looks like a reset."""
    (metric,) = every_metric(encoded([COUNTER]))
    assert (metric.name, metric.description, metric.unit) == ("c", "Counts.", "")
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = metric.sum.data_points
    assert (point.as_int, point.start_time_unix_nano, point.time_unix_nano) == (7, BORN_NS, NOW_NS)
    assert plain_attributes(point.attributes) == {"skill_id": "a", "org_id": "o"}


def test_a_histogram_keeps_its_bounds_counts_and_sum() -> None:
    """Bucket counts are those of each bucket alone, one more than there are bounds; the unit is UCUM's."""
    (metric,) = every_metric(encoded([HISTOGRAM]))
    assert (metric.name, metric.unit) == ("h_milliseconds", "ms")
    assert metric.histogram.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = metric.histogram.data_points
    assert (list(point.explicit_bounds), list(point.bucket_counts)) == ([10, 50], [1, 0, 2])
    assert (point.count, point.sum, point.start_time_unix_nano) == (3, 61.5, BORN_NS)


def test_a_gauge_has_no_start_and_no_unit() -> None:
    """With unit 1 receivers would call it a ratio."""
    (metric,) = every_metric(encoded([GAUGE]))
    (point,) = metric.gauge.data_points
    assert (point.as_double, point.start_time_unix_nano, metric.unit) == (0.5, 0, "")


def test_a_truth_value_is_sent_as_one_or_zero() -> None:
    """Own families say ready=True."""
    (metric,) = every_metric(encoded([Family("g", "gauge", "", [Point({}, True)])]))
    assert metric.gauge.data_points[0].as_int == 1


def test_a_start_is_never_after_the_time_of_the_point() -> None:
    """The clock may have been set back since; receivers refuse such points."""
    (metric,) = every_metric(encoded([Family("c", "counter", "", [Point({}, 1, NOW_NS + 1)])]))
    assert metric.sum.data_points[0].start_time_unix_nano == NOW_NS


@pytest.mark.parametrize("max_points", [1, 7, 100, 1000])
def test_many_series_go_in_requests_of_bounded_size_and_none_is_lost(max_points: int) -> None:
    """Also where a family is cut in two; each request says what its metric is."""
    points = [Point({"skill_id": f"s{number}"}, number, BORN_NS) for number in range(100)]
    requests = encoded([Family("c", "counter", "", points), HISTOGRAM, GAUGE], max_points)
    sizes = [sum(len(metric.sum.data_points) for metric in every_metric([request])) for request in requests]
    assert max(sizes) <= max_points
    assert len(requests) == -(-102 // max_points)
    assert all(metric.sum.is_monotonic for metric in every_metric(requests) if metric.name == "c")
    assert len(series(requests)) == 102


@pytest.mark.parametrize("text", ["../../x\n", '"{}\\', "<script>", "\x00", "é\U0001f600", "a" * 256])
def test_hostile_ids_arrive_literally(text: str) -> None:
    """An attribute is data; nothing in it is syntax."""
    (metric,) = every_metric(encoded([Family("c", "counter", "", [Point({"skill_id": text}, 1)])]))
    assert plain_attributes(metric.sum.data_points[0].attributes) == {"skill_id": text}


def test_what_was_sent_is_known_until_its_value_changes() -> None:
    """Of two series with the same value, and of two metrics with the same series, each is told apart."""
    sent = Sent()
    sent.add(rows([COUNTER, HISTOGRAM]))
    assert all(row in sent for row in rows([COUNTER, HISTOGRAM]))
    assert not any(row in sent for row in rows([GAUGE]))
    for other in (
        Point({"skill_id": "a", "org_id": "o"}, 8, BORN_NS),
        Point({"skill_id": "b", "org_id": "o"}, 7, BORN_NS),
        Point({"skill_id": "a"}, 7, BORN_NS),
        Point({"skill_id": "a", "org_id": "o"}, 7, BORN_NS + 1),
    ):
        assert (COUNTER, other) not in sent
    sent.clear()
    assert not any(row in sent for row in rows([COUNTER, HISTOGRAM]))
