-- How many different users a skill had on each day, over all orgs: counted when the first use comes, as counting them
-- for a question would read every user of every day.

ALTER TABLE skill_daily ADD COLUMN users INTEGER NOT NULL DEFAULT 0;

INSERT INTO skill_daily (day, skill_no, users)
SELECT pair_daily.day, pair.skill_no, count(DISTINCT user_daily.user_no)
FROM pair_daily
JOIN pair ON pair.id = pair_daily.pair_id
JOIN user_daily ON user_daily.pair_daily_id = pair_daily.id
WHERE user_daily.user_no > 0
GROUP BY 1, 2
ON CONFLICT DO UPDATE SET users = excluded.users;

-- A user who was last seen with the skill before this day is new on it; one who was last seen on it is not. Only a
-- late event, of a day before, needs a look at what the skill's other orgs have of that day.
DROP TRIGGER user_daily_seen;
CREATE TRIGGER user_daily_seen AFTER INSERT ON user_daily WHEN NEW.user_no > 0 BEGIN
    INSERT INTO skill_daily (day, skill_no, users)
    SELECT pair_daily.day, pair.skill_no, 1
    FROM pair_daily
    JOIN pair ON pair.id = pair_daily.pair_id
    LEFT JOIN seen ON seen.scope = 2 AND seen.no = pair.skill_no AND seen.user_no = NEW.user_no
    WHERE pair_daily.id = NEW.pair_daily_id AND (
        seen.last_day IS NULL OR seen.last_day < pair_daily.day OR (
            seen.last_day > pair_daily.day AND NOT EXISTS (
                SELECT 1
                FROM pair AS other
                JOIN pair_daily AS its ON its.pair_id = other.id AND its.day = pair_daily.day
                JOIN user_daily ON user_daily.pair_daily_id = its.id AND user_daily.user_no = NEW.user_no
                WHERE other.skill_no = pair.skill_no AND its.id <> pair_daily.id
            )
        )
    )
    ON CONFLICT DO UPDATE SET users = users + 1;

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
