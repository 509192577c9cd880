"""The master: claims jobs, hands them to worker processes, and decides from outside what becomes of them.

::

    supervisor    starts everything, owns the tasks, takes signals, ends with an exit status
    planning      which pools, of which size, for which queues (pure)
    nursery       makes worker processes, keeps one spare that has imported the application
    process       one worker process: spawn, channel, cell, output, death
    pool          the workers that serve some queues
    rounds        the exchange with the store: events and settlements out, claims in
    assignments   a claimed job at a worker, from the claim to its outcome
    deadlines     which running job runs out of time next (pure)
    ladder        make a run stop: stack, request, kill
    strays        processes that a job left behind
    liveness      the node's lock and cells; adopting the jobs of masters that are gone
    watch         heartbeat, memory samples, cancel requests
    notices       what happens, as values; whoever subscribes makes text of them

It never imports the application, and never decodes a job's arguments or results.
"""
