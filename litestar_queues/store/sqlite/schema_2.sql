-- Version 2: limits of a run, and runs that must be told from their neighbours.

ALTER TABLE lq_job ADD COLUMN max_rss INTEGER;
ALTER TABLE lq_job ADD COLUMN allow_background INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lq_job ADD COLUMN suspect INTEGER NOT NULL DEFAULT 0;
