"""`make simulate`: a national on-sale, a million users in the first minute, against web processes and shards.

What an answer costs is what `make capacity ARGS=--check` measured; bounds and deadlines are the service's own.

    messages.py   what travels: whose request it is, where it stands; and what is due when
    servers.py    web processes and shards as queues that do in a turn all that waits
    service.py    the way of a request through them, and where it is refused
    crowd.py      people: when they come, what they ask for, how they take no for an answer
    run.py        one on-sale from its first second to its last, and what it came to
    probe.py      the simulator beside the real service, at stated rates
    report.py     tables and pictures
"""
