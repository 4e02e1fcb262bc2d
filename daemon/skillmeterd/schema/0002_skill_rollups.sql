-- What queries over many skills, and those for people, need besides: rollups of a skill over all orgs, and who was seen
-- when.

CREATE TABLE skill (no INTEGER PRIMARY KEY, skill_id TEXT NOT NULL UNIQUE);
CREATE TABLE org (no INTEGER PRIMARY KEY, org_id TEXT NOT NULL UNIQUE);
INSERT INTO skill (skill_id) SELECT DISTINCT skill_id FROM pair;
INSERT INTO org (org_id) SELECT DISTINCT org_id FROM pair WHERE org_id IS NOT NULL;

ALTER TABLE pair ADD COLUMN skill_no INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pair ADD COLUMN org_no INTEGER NOT NULL DEFAULT 0;  -- 0: no org
UPDATE pair SET
    skill_no = (SELECT no FROM skill WHERE skill.skill_id = pair.skill_id),
    org_no = ifnull((SELECT no FROM org WHERE org.org_id = pair.org_id), 0);
CREATE INDEX pair_skill ON pair (skill_no, org_no);
CREATE INDEX pair_org ON pair (org_no);
CREATE INDEX pair_daily_pair ON pair_daily (pair_id, day);

CREATE TRIGGER pair_numbers AFTER INSERT ON pair BEGIN
    INSERT INTO skill (skill_id) VALUES (NEW.skill_id) ON CONFLICT DO NOTHING;
    INSERT INTO org (org_id) SELECT NEW.org_id WHERE NEW.org_id IS NOT NULL ON CONFLICT DO NOTHING;
    UPDATE pair SET
        skill_no = (SELECT no FROM skill WHERE skill_id = NEW.skill_id),
        org_no = ifnull((SELECT no FROM org WHERE org_id = NEW.org_id), 0)
    WHERE id = NEW.id;
END;

CREATE TABLE skill_daily (
    day INTEGER NOT NULL,
    skill_no INTEGER NOT NULL,
    executions INTEGER NOT NULL DEFAULT 0,
    successes INTEGER NOT NULL DEFAULT 0,
    latency_sum REAL NOT NULL DEFAULT 0,
    latency_min REAL,
    latency_max REAL,
    first_ns INTEGER,
    last_ns INTEGER,
    r1 INTEGER NOT NULL DEFAULT 0,
    r2 INTEGER NOT NULL DEFAULT 0,
    r3 INTEGER NOT NULL DEFAULT 0,
    r4 INTEGER NOT NULL DEFAULT 0,
    r5 INTEGER NOT NULL DEFAULT 0,
    sketch BLOB,
    PRIMARY KEY (day, skill_no)
) WITHOUT ROWID;
CREATE INDEX skill_daily_skill ON skill_daily (skill_no, day);

CREATE TABLE skill_total (
    skill_no INTEGER PRIMARY KEY,
    executions INTEGER NOT NULL DEFAULT 0,
    successes INTEGER NOT NULL DEFAULT 0,
    latency_sum REAL NOT NULL DEFAULT 0,
    latency_min REAL,
    latency_max REAL,
    first_ns INTEGER,
    last_ns INTEGER,
    r1 INTEGER NOT NULL DEFAULT 0,
    r2 INTEGER NOT NULL DEFAULT 0,
    r3 INTEGER NOT NULL DEFAULT 0,
    r4 INTEGER NOT NULL DEFAULT 0,
    r5 INTEGER NOT NULL DEFAULT 0,
    sketch BLOB
);

-- How often each day's rollups were written to: what was computed from a day that is over holds until this moves.
CREATE TABLE day_change (day INTEGER PRIMARY KEY, changes INTEGER NOT NULL);

-- When each user was last seen: anywhere (scope 0, no 0), in an org (1, its no), using a skill (2, its no), using a
-- skill in an org (3, the pair's id). Days are those of the events.
CREATE TABLE seen (
    scope INTEGER NOT NULL,
    no INTEGER NOT NULL,
    user_no INTEGER NOT NULL,
    last_day INTEGER NOT NULL,
    PRIMARY KEY (scope, no, user_no)
) WITHOUT ROWID;
CREATE INDEX seen_user ON seen (user_no, scope, no) WHERE scope >= 2;

-- How many users were last seen on a day. Summed up from a day on, it is how many different users there were since.
CREATE TABLE last_seen (
    scope INTEGER NOT NULL,
    no INTEGER NOT NULL,
    day INTEGER NOT NULL,
    users INTEGER NOT NULL,
    PRIMARY KEY (scope, no, day)
) WITHOUT ROWID;

CREATE TRIGGER seen_first AFTER INSERT ON seen BEGIN
    INSERT INTO last_seen VALUES (NEW.scope, NEW.no, NEW.last_day, 1) ON CONFLICT DO UPDATE SET users = users + 1;
END;

CREATE TRIGGER seen_again AFTER UPDATE OF last_day ON seen BEGIN
    UPDATE last_seen SET users = users - 1 WHERE scope = OLD.scope AND no = OLD.no AND day = OLD.last_day;
    INSERT INTO last_seen VALUES (NEW.scope, NEW.no, NEW.last_day, 1) ON CONFLICT DO UPDATE SET users = users + 1;
END;

-- Only a user's first use of a pair on a day can change when somebody was last seen.
CREATE TRIGGER user_daily_seen AFTER INSERT ON user_daily WHEN NEW.user_no > 0 BEGIN
    INSERT INTO seen (scope, no, user_no, last_day)
    SELECT scopes.scope,
        CASE scopes.scope WHEN 0 THEN 0 WHEN 1 THEN pair.org_no WHEN 2 THEN pair.skill_no ELSE pair.id END,
        NEW.user_no,
        pair_daily.day
    FROM pair_daily
    JOIN pair ON pair.id = pair_daily.pair_id
    JOIN (SELECT 0 AS scope UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3) AS scopes
    WHERE pair_daily.id = NEW.pair_daily_id
    ON CONFLICT DO UPDATE SET last_day = excluded.last_day WHERE excluded.last_day > last_day;
END;
