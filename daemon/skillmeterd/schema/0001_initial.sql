-- The first schema. Public are the views at the end and schema_version; the tables may change between releases.
-- Names ending in _ns are Unix nanoseconds, a `day` is days since 1970-01-01 UTC, latencies are milliseconds.

PRAGMA application_id = 0x534B4D31;  -- "SKM1"

CREATE TABLE schema_version (version INTEGER NOT NULL, migrated_ns INTEGER NOT NULL);
INSERT INTO schema_version VALUES (0, 0);

-- What happened to this file that a person should know of.
CREATE TABLE incident (at_ns INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL);

-- Names, each kept once.
CREATE TABLE pair (id INTEGER PRIMARY KEY, skill_id TEXT NOT NULL, org_id TEXT);
CREATE UNIQUE INDEX pair_key ON pair (skill_id, ifnull(org_id, 0));  -- the integer 0 equals no text
CREATE TABLE user (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL UNIQUE);

-- One row per producer. The row outlives its journal, so that late batches are known to be duplicates.
CREATE TABLE producer (
    no INTEGER PRIMARY KEY,
    producer BLOB NOT NULL UNIQUE,
    committed INTEGER NOT NULL DEFAULT 0,      -- journal offset before which all is in this file
    records INTEGER NOT NULL DEFAULT 0,        -- records before it: stored or malformed
    attempted INTEGER NOT NULL DEFAULT 0,      -- events, as far as is known
    accounted INTEGER NOT NULL DEFAULT 0,      -- of these, the ones whose outcome is known
    lost INTEGER NOT NULL DEFAULT 0,
    corrupt INTEGER NOT NULL DEFAULT 0,
    ledger TEXT NOT NULL DEFAULT '[]',         -- the last snapshot of its counters, JSON
    finished INTEGER NOT NULL DEFAULT 0,
    last_event_id INTEGER NOT NULL DEFAULT 0,
    first_seen_ns INTEGER NOT NULL,
    last_seen_ns INTEGER NOT NULL
);
CREATE INDEX producer_live ON producer (no) WHERE NOT finished;
CREATE INDEX producer_finished ON producer (last_seen_ns) WHERE finished;

-- The events, in the order of their commit. An id is never used again.
CREATE TABLE event_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ns INTEGER NOT NULL,
    pair_id INTEGER NOT NULL,
    user_no INTEGER NOT NULL,                  -- 0: no user
    producer_no INTEGER NOT NULL,
    offset INTEGER NOT NULL,                   -- where its record starts in the producer's journal
    kind INTEGER NOT NULL,                     -- 0 failed execution, 1 successful execution, 2 rating, 3 health
    value REAL NOT NULL                        -- latency, rating or score
);

-- The optional parts of an execution; few events have any.
CREATE TABLE event_extra (id INTEGER PRIMARY KEY, error_type TEXT, skill_version TEXT, attributes TEXT);

-- The first event committed on each day of the daemon's clock: retention deletes by id, and needs no index on time.
CREATE TABLE day_mark (day INTEGER PRIMARY KEY, first_event_id INTEGER NOT NULL);

CREATE TABLE ledger_total (
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (outcome, reason)
) WITHOUT ROWID;

-- Rollups, by the UTC day on which events happened.
CREATE TABLE pair_daily (
    id INTEGER PRIMARY KEY,
    day INTEGER NOT NULL,
    pair_id INTEGER NOT NULL,
    executions INTEGER NOT NULL DEFAULT 0,
    successes INTEGER NOT NULL DEFAULT 0,
    latency_sum REAL NOT NULL DEFAULT 0,
    latency_min REAL,                          -- NULL, like the next and the times: no execution yet
    latency_max REAL,
    first_ns INTEGER,
    last_ns INTEGER,
    updated_ns INTEGER,                        -- the daemon's clock at the last execution
    r1 INTEGER NOT NULL DEFAULT 0,
    r2 INTEGER NOT NULL DEFAULT 0,
    r3 INTEGER NOT NULL DEFAULT 0,
    r4 INTEGER NOT NULL DEFAULT 0,
    r5 INTEGER NOT NULL DEFAULT 0,
    sketch BLOB,
    UNIQUE (day, pair_id)
);

-- The same by user. With many users this is the table that grows and that most commits touch: it is kept narrow.
CREATE TABLE user_daily (
    pair_daily_id INTEGER NOT NULL,
    user_no INTEGER NOT NULL,                  -- 0: no user
    executions INTEGER NOT NULL,
    successes INTEGER NOT NULL,
    latency_sum REAL NOT NULL,
    latency_min REAL NOT NULL,
    latency_max REAL NOT NULL,
    PRIMARY KEY (pair_daily_id, user_no)
) WITHOUT ROWID;

-- Totals that only ever grow.
CREATE TABLE pair_total (
    pair_id INTEGER PRIMARY KEY,
    created_ns INTEGER NOT NULL,               -- the daemon's clock when the series appeared
    executions INTEGER NOT NULL DEFAULT 0,
    successes INTEGER NOT NULL DEFAULT 0,
    latency_sum REAL NOT NULL DEFAULT 0,
    latency_min REAL,
    latency_max REAL,
    le_10 INTEGER NOT NULL DEFAULT 0,          -- executions within 10 ms, then those within 50 but not 10, ...
    le_50 INTEGER NOT NULL DEFAULT 0,
    le_100 INTEGER NOT NULL DEFAULT 0,
    le_200 INTEGER NOT NULL DEFAULT 0,
    le_500 INTEGER NOT NULL DEFAULT 0,
    le_1000 INTEGER NOT NULL DEFAULT 0,
    le_2000 INTEGER NOT NULL DEFAULT 0,
    le_5000 INTEGER NOT NULL DEFAULT 0,        -- the rest of `executions` took longer
    first_used_ns INTEGER,
    last_used_ns INTEGER,
    r1 INTEGER NOT NULL DEFAULT 0,
    r2 INTEGER NOT NULL DEFAULT 0,
    r3 INTEGER NOT NULL DEFAULT 0,
    r4 INTEGER NOT NULL DEFAULT 0,
    r5 INTEGER NOT NULL DEFAULT 0,
    rating_created_ns INTEGER,
    last_rated_ns INTEGER,
    sketch BLOB
);

CREATE TABLE skill_health (
    skill_id TEXT PRIMARY KEY,
    score REAL NOT NULL,
    at_ns INTEGER NOT NULL,                    -- when it was said; the latest counts
    created_ns INTEGER NOT NULL
) WITHOUT ROWID;

-- For queries: user_daily with its day and pair.
CREATE VIEW usage_daily AS
SELECT
    pair_daily.day,
    pair_daily.pair_id,
    user_daily.user_no,
    user_daily.executions,
    user_daily.successes,
    user_daily.latency_sum,
    user_daily.latency_min,
    user_daily.latency_max,
    pair_daily.updated_ns
FROM pair_daily
JOIN user_daily ON user_daily.pair_daily_id = pair_daily.id;

CREATE VIEW events AS
SELECT
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
    -- Clients send JSON. What is none comes out as a JSON string, so that json_extract works on every row.
    CASE WHEN json_valid(event_extra.attributes) THEN event_extra.attributes
         WHEN event_extra.attributes IS NOT NULL THEN json_quote(event_extra.attributes) END AS attributes
FROM event_log
JOIN pair ON pair.id = event_log.pair_id
LEFT JOIN user ON user.id = event_log.user_no
LEFT JOIN producer ON producer.no = event_log.producer_no
LEFT JOIN event_extra ON event_extra.id = event_log.id;

CREATE VIEW skill_usage AS
SELECT
    date(usage_daily.day * 86400, 'unixepoch') AS day,
    pair.skill_id,
    user.user_id,
    pair.org_id,
    usage_daily.executions AS execution_count,
    usage_daily.successes AS success_count,
    usage_daily.executions - usage_daily.successes AS failure_count,
    usage_daily.latency_sum / usage_daily.executions AS avg_latency_ms,
    usage_daily.latency_min AS min_latency_ms,
    usage_daily.latency_max AS max_latency_ms,
    usage_daily.updated_ns AS updated_at
FROM usage_daily
JOIN pair ON pair.id = usage_daily.pair_id
LEFT JOIN user ON user.id = usage_daily.user_no;

CREATE VIEW skill_metrics AS
WITH named (skill_id) AS (
    SELECT pair.skill_id FROM pair_total JOIN pair ON pair.id = pair_total.pair_id
    UNION
    SELECT skill_id FROM skill_health
),
total AS (
    SELECT
        pair.skill_id,
        sum(executions) AS executions, sum(successes) AS successes, sum(latency_sum) AS latency_sum,
        min(latency_min) AS latency_min, max(latency_max) AS latency_max,
        sum(r1) AS r1, sum(r2) AS r2, sum(r3) AS r3, sum(r4) AS r4, sum(r5) AS r5,
        min(first_used_ns) AS first_used, max(last_used_ns) AS last_used, max(last_rated_ns) AS last_rated
    FROM pair_total JOIN pair ON pair.id = pair_total.pair_id
    GROUP BY pair.skill_id
)
SELECT
    named.skill_id,
    1.0 * (r1 + 2 * r2 + 3 * r3 + 4 * r4 + 5 * r5) / nullif(r1 + r2 + r3 + r4 + r5, 0) AS rating_avg,
    ifnull(r1 + r2 + r3 + r4 + r5, 0) AS rating_count,
    ifnull(r1, 0) AS rating_1_count,
    ifnull(r2, 0) AS rating_2_count,
    ifnull(r3, 0) AS rating_3_count,
    ifnull(r4, 0) AS rating_4_count,
    ifnull(r5, 0) AS rating_5_count,
    skill_health.score AS health_score,
    ifnull(executions, 0) AS execution_count,
    ifnull(successes, 0) AS success_count,
    ifnull(executions - successes, 0) AS failure_count,
    latency_sum / nullif(executions, 0) AS avg_latency_ms,
    latency_min AS min_latency_ms,
    latency_max AS max_latency_ms,
    first_used,
    last_used,
    last_rated
FROM named
LEFT JOIN total ON total.skill_id = named.skill_id
LEFT JOIN skill_health ON skill_health.skill_id = named.skill_id;

-- attempted = stored + pending + dropped + rejected, each summed over its reasons.
CREATE VIEW ledger AS
SELECT outcome, reason, events FROM ledger_total
UNION ALL
SELECT 'pending', '', ifnull(sum(attempted - accounted), 0) FROM producer WHERE NOT finished;
