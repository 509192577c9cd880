"""What runs in a worker process: ``python -m litestar_queues.worker BOOT``, started by the master.

::

    __main__      boot: guard the process, import the application, say Ready, wait for Start, serve
    guard         die with the master; keep the channel where user code does not stumble on it
    application   import the application, read its configuration, list its tasks
    serving       take a job, run it, report it, take the next
    interrupts    a signal from the master becomes a cancellation or an exception in the task
    speaking      progress, log records, print and standard output become frames, within a share
"""
