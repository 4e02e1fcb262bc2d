-- Who was last seen when is written by the store from now on, a group at a time (seen.py): as triggers it took two
-- thirds of a commit. What the tables hold stays as it is.

DROP TRIGGER user_daily_seen;
DROP TRIGGER seen_first;
DROP TRIGGER seen_again;
