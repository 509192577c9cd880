"""The master: claims jobs, hands them to worker processes, and decides from outside what becomes of them.

::

    supervisor    starts everything, owns the tasks, takes signals, ends with an exit status
    planning      which pools, of which size, for which queues (pure)
    nursery       keeps a zygote that has imported the application, and has it fork workers
    zygote        the zygote as a process: start it, order forks, hear of deaths
    process       one worker process: channels, output, signals, death
    exit_status   how a process ended, in words
    crew          the workers: births, reports, deaths, retirement
    pool          the workers that serve some queues, and whether they can start
    dispatch      from claims to lanes, and back: which worker gets a job, what is taken back
    lanes         what runs and waits at one worker (pure)
    pace          how long jobs take, and what that allows to wait (pure)
    timekeeper    which lane is to be looked at, and what its cells say: late, or waiting in vain
    deadlines     the moments of that (pure)
    recorder      what jobs say: whose it is
    rounds        the exchange with the store: events and settlements out, claims in
    assignments   a claimed job at a worker, from the claim to its outcome; who pays for a death
    ladder        make a run stop: stack, request, kill
    strays        processes that a job left behind
    liveness      the node's lock and cells; adopting the jobs of masters that are gone
    watch         heartbeat, memory samples and limits, cancel requests
    output        lines from a worker's descriptors 1 and 2
    stacks        where a process stands, through ``faulthandler``
    showing       what the master shows of its workers
    notices       what happens, as values; whoever subscribes makes text of them

It never imports the application, and never decodes a job's arguments or results.
"""
