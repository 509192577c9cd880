"""The exit statuses of ``lq``, in one place."""

OK = 0
FAILED = 1
"""The operation failed."""
USAGE = 2
"""The command line, or the arguments of a task, are wrong."""
JOB_FAILED = 3
"""The awaited job did not succeed."""
UNUSABLE = 4
"""The store or the application cannot be used."""
NOT_FOUND = 5
"""There is no such job or task."""
HANDED_BACK = 8
"""The worker stopped, and handed back jobs that were running."""
STORE_GONE = 75
"""The database was deleted, replaced or damaged under a worker, or what writes to it has failed: start it again."""
TIMED_OUT = 124
"""``--wait-timeout`` passed."""
INTERRUPTED = 130
