-- Version 3: how long a job is kept after its end, and its result, where that is not the masters' to say;
-- how large its arguments are.

ALTER TABLE lq_job ADD COLUMN retention INTEGER;         -- NULL: as the configuration of a master says
ALTER TABLE lq_job ADD COLUMN result_retention INTEGER;  -- NULL: as long as the job
ALTER TABLE lq_job ADD COLUMN payload_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lq_key ADD COLUMN status TEXT;               -- how its job had ended, once that has been pruned

-- Only jobs with a period of their own are in here: one without pays for neither at its completion.
CREATE INDEX lq_job_kept ON lq_job (ended_at + retention) WHERE retention IS NOT NULL AND ended_at IS NOT NULL;
CREATE INDEX lq_job_result ON lq_job (ended_at + result_retention)
    WHERE result_retention IS NOT NULL AND result IS NOT NULL AND ended_at IS NOT NULL;

-- With all that decides whether a job is among the first: a claim finds them in the index alone, and need not walk
-- through arguments of megabytes to the columns behind them.
UPDATE lq_job SET payload_bytes = length(CAST(payload AS BLOB)) WHERE status IN ('scheduled', 'pending');
DROP INDEX lq_job_pending;
CREATE INDEX lq_job_pending ON lq_job (queue, backend, priority DESC, number, expires_at, payload_bytes, status)
    WHERE status = 'pending';
