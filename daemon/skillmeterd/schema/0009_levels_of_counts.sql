-- Counts that most commits touch all over get two levels, too: how many users were last seen when, and the sketches of all
-- latencies there ever were. In the totals these were most of each row, and grew with the days there are.

-- What came later: it is to be added to the row of the same key.
CREATE TABLE last_seen_recent (
    scope INTEGER NOT NULL,
    no INTEGER NOT NULL,
    users BLOB NOT NULL,
    PRIMARY KEY (scope, no)
) WITHOUT ROWID;

CREATE TABLE pair_sketch (pair_id INTEGER PRIMARY KEY, sketch BLOB NOT NULL);
CREATE TABLE pair_sketch_recent (pair_id INTEGER PRIMARY KEY, sketch BLOB NOT NULL);
INSERT INTO pair_sketch SELECT pair_id, sketch FROM pair_total WHERE sketch IS NOT NULL ORDER BY pair_id;
ALTER TABLE pair_total DROP COLUMN sketch;
CREATE TABLE pair_total_copy AS SELECT * FROM pair_total;  -- written anew, or each page would keep its few rows
DELETE FROM pair_total;
INSERT INTO pair_total SELECT * FROM pair_total_copy ORDER BY 1;
DROP TABLE pair_total_copy;

-- Of a skill over all orgs.
CREATE TABLE skill_sketch (skill_no INTEGER PRIMARY KEY, sketch BLOB NOT NULL);
CREATE TABLE skill_sketch_recent (skill_no INTEGER PRIMARY KEY, sketch BLOB NOT NULL);
INSERT INTO skill_sketch SELECT skill_no, sketch FROM skill_total WHERE sketch IS NOT NULL ORDER BY skill_no;
ALTER TABLE skill_total DROP COLUMN sketch;
CREATE TABLE skill_total_copy AS SELECT * FROM skill_total;  -- written anew, or each page would keep its few rows
DELETE FROM skill_total;
INSERT INTO skill_total SELECT * FROM skill_total_copy ORDER BY 1;
DROP TABLE skill_total_copy;

-- A skill's users in any org are those of all its orgs.
DELETE FROM skill_user WHERE org_no < 0;
DELETE FROM skill_user_recent WHERE org_no < 0;
