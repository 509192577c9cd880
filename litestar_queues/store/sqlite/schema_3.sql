-- Version 3: how long a job is kept after its end, and its result, where that is not the masters' to say.

ALTER TABLE lq_job ADD COLUMN retention INTEGER;         -- NULL: as the configuration of a master says
ALTER TABLE lq_job ADD COLUMN result_retention INTEGER;  -- NULL: as long as the job
ALTER TABLE lq_key ADD COLUMN status TEXT;               -- how its job had ended, once that has been pruned

-- Only jobs with a period of their own are in here: one without pays for neither at its completion.
CREATE INDEX lq_job_kept ON lq_job (ended_at + retention) WHERE retention IS NOT NULL AND ended_at IS NOT NULL;
CREATE INDEX lq_job_result ON lq_job (ended_at + result_retention)
    WHERE result_retention IS NOT NULL AND result IS NOT NULL AND ended_at IS NOT NULL;
