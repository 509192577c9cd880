"""What runs in worker processes: ``python -m litestar_queues.worker BOOT``, started by the master.

::

    __main__      the zygote imports the application; what it forks goes on as a worker
    application   import the application, read its configuration, list its tasks
    zygote        fork workers on request, reap them, end them all when the master is gone
    birth         from a fork of the zygote to a worker: session, descriptors, marks, output
    guard         die with the parent; keep the channels where user code does not stumble on them
    marks         what the process shows of itself in /proc: its title and its cookie
    serving       take a job, run it, report it, take the next
    slots         the same for several jobs at a time
    stepping      which job has the event loop, and since when
    interrupts    a signal from the master becomes a cancellation or an exception in the task
    standing      at which line a coroutine waits
    jobloop       the event loop: it notes what each job gives to it, and puts back what a job sets on it
    belongings    what a job has left on the event loop ends with it
    leftovers     processes that a job leaves behind
    restoring     what one job has changed of the process is put back for the next
    speaking      progress, log records, print and standard output become frames, within a share
    enqueuing     enqueue from inside a task
"""
