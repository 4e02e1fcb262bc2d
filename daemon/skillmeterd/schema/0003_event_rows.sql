-- Events with the number by which they are followed and exported; the public view is the same without it.

CREATE VIEW event_rows AS
SELECT
    event_log.id AS no,
    lower(hex(producer.producer)) || '-' || printf('%x', event_log.offset) AS event_id,
    event_log.at_ns AS recorded_at,
    CASE event_log.kind WHEN 2 THEN 'rating' WHEN 3 THEN 'health' ELSE 'execution' END AS kind,
    pair.skill_id,
    user.user_id,
    pair.org_id,
    CASE WHEN event_log.kind < 2 THEN event_log.kind END AS success,
    CASE WHEN event_log.kind < 2 THEN event_log.value END AS latency_ms,
    CASE WHEN event_log.kind = 2 THEN CAST(event_log.value AS INTEGER) END AS rating,
    CASE WHEN event_log.kind = 3 THEN event_log.value END AS score,
    event_extra.error_type,
    event_extra.skill_version,
    CASE WHEN json_valid(event_extra.attributes) THEN event_extra.attributes
         WHEN event_extra.attributes IS NOT NULL THEN json_quote(event_extra.attributes) END AS attributes
FROM event_log
JOIN pair ON pair.id = event_log.pair_id
LEFT JOIN user ON user.id = event_log.user_no
LEFT JOIN producer ON producer.no = event_log.producer_no
LEFT JOIN event_extra ON event_extra.id = event_log.id;

DROP VIEW events;
CREATE VIEW events AS
SELECT
    event_id, recorded_at, kind, skill_id, user_id, org_id, success, latency_ms, rating, score, error_type,
    skill_version, attributes
FROM event_rows;
