-- When a user last used a skill is kept once, in its org, and no longer over all orgs as well: it is the latest of its
-- orgs. So the first use of a day moves one row, not two. The table in the order of skills says no more than who their
-- users are: it is only written to when one is new.

ALTER TABLE seen RENAME TO seen_by_skill;
ALTER TABLE seen_recent RENAME TO seen_by_skill_recent;
DROP TABLE used;
DROP TABLE used_recent;

-- When each user last used a skill in an org (org_no 0: in none), by days of the events. skill_no 0 is any skill.
CREATE TABLE seen (
    user_no INTEGER NOT NULL,
    skill_no INTEGER NOT NULL,
    org_no INTEGER NOT NULL,
    last_day INTEGER NOT NULL,
    PRIMARY KEY (user_no, skill_no, org_no)
) WITHOUT ROWID;

-- The same, later: where both have a row, this one holds.
CREATE TABLE seen_recent (
    user_no INTEGER NOT NULL,
    skill_no INTEGER NOT NULL,
    org_no INTEGER NOT NULL,
    last_day INTEGER NOT NULL,
    PRIMARY KEY (user_no, skill_no, org_no)
) WITHOUT ROWID;

INSERT INTO seen
SELECT user_no, skill_no, org_no, max(last_day)
FROM (SELECT * FROM seen_by_skill UNION ALL SELECT * FROM seen_by_skill_recent)
WHERE org_no >= 0
GROUP BY user_no, skill_no, org_no;

-- Which users each skill has ever had in an org (org_no 0: in none). org_no -1 is any org.
CREATE TABLE skill_user (
    skill_no INTEGER NOT NULL,
    org_no INTEGER NOT NULL,
    user_no INTEGER NOT NULL,
    PRIMARY KEY (skill_no, org_no, user_no)
) WITHOUT ROWID;

-- More of them: no row is in both.
CREATE TABLE skill_user_recent (
    skill_no INTEGER NOT NULL,
    org_no INTEGER NOT NULL,
    user_no INTEGER NOT NULL,
    PRIMARY KEY (skill_no, org_no, user_no)
) WITHOUT ROWID;

INSERT INTO skill_user SELECT skill_no, org_no, user_no FROM seen_by_skill WHERE skill_no > 0 ORDER BY 1, 2, 3;
INSERT INTO skill_user SELECT skill_no, org_no, user_no FROM seen_by_skill_recent WHERE skill_no > 0 ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING;
DROP TABLE seen_by_skill;
DROP TABLE seen_by_skill_recent;
