-- Who was last seen when, in two parts. Every first use of a day moves a row somewhere in a table that grows with users
-- and skills; what moved lately goes to a small table, which every so often is merged into the large one in the order of
-- its key.

ALTER TABLE seen RENAME TO seen_by_scope;
ALTER TABLE last_seen RENAME TO last_seen_by_day;
DROP INDEX seen_user;

-- When each user last used a skill in an org (org_no 0: in none), by days of the events. skill_no 0 is any skill, org_no
-- -1 any org.
CREATE TABLE seen (
    skill_no INTEGER NOT NULL,
    org_no INTEGER NOT NULL,
    user_no INTEGER NOT NULL,
    last_day INTEGER NOT NULL,
    PRIMARY KEY (skill_no, org_no, user_no)
) WITHOUT ROWID;

-- The same, later: where both have a row, this one holds.
CREATE TABLE seen_recent (
    skill_no INTEGER NOT NULL,
    org_no INTEGER NOT NULL,
    user_no INTEGER NOT NULL,
    last_day INTEGER NOT NULL,
    PRIMARY KEY (skill_no, org_no, user_no)
) WITHOUT ROWID;

INSERT INTO seen
SELECT iif(scope = 2, no, 0), iif(scope = 1, no, -1), user_no, last_day FROM seen_by_scope WHERE scope < 3
UNION ALL
SELECT pair.skill_no, pair.org_no, user_no, last_day
FROM pair JOIN seen_by_scope ON scope = 3 AND no = pair.id
ORDER BY 1, 2, 3;
DROP TABLE seen_by_scope;

-- Which skills each user has ever used in which org. It is a table of its own, and no index of `seen`, so that it is
-- merged in the order of its own key.
CREATE TABLE used (
    user_no INTEGER NOT NULL,
    skill_no INTEGER NOT NULL,
    org_no INTEGER NOT NULL,
    PRIMARY KEY (user_no, skill_no, org_no)
) WITHOUT ROWID;

-- More of them: no row is in both.
CREATE TABLE used_recent (
    user_no INTEGER NOT NULL,
    skill_no INTEGER NOT NULL,
    org_no INTEGER NOT NULL,
    PRIMARY KEY (user_no, skill_no, org_no)
) WITHOUT ROWID;

INSERT INTO used SELECT user_no, skill_no, org_no FROM seen WHERE skill_no > 0 AND org_no >= 0 ORDER BY 1, 2, 3;

-- How many users were last seen on which day, as counts: anywhere (scope 0, no 0), in an org (1, its no), using a skill
-- (2, its no), using a skill in an org (3, the pair's id). Summed up from a day on, that is how many different users there
-- were since.
CREATE TABLE last_seen (
    scope INTEGER NOT NULL,
    no INTEGER NOT NULL,
    users BLOB NOT NULL,
    PRIMARY KEY (scope, no)
) WITHOUT ROWID;
INSERT INTO last_seen
SELECT scope, no, counts_of(day, users) FROM last_seen_by_day WHERE users ORDER BY scope, no
ON CONFLICT DO UPDATE SET users = counts_add(users, excluded.users);
DROP TABLE last_seen_by_day;
