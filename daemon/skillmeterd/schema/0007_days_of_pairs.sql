-- A pair's days are found by looking at each day that there is. An index by pair and day was written to at as many places
-- as there are pairs, on every day anew.

INSERT INTO day_change SELECT DISTINCT day, 1 FROM pair_daily WHERE true ON CONFLICT DO NOTHING;
DROP INDEX pair_daily_pair;
