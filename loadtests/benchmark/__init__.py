"""`make bench`: what a booking costs, beside the least and the plainest that could be done, within one run.

Every figure is a ratio in the end, for those repeat from machine to machine. All servers are the benchmark's own, on
loopback; `wrk` makes the load. The sides of a comparison take turns, round by round, so that whatever disturbs the
machine disturbs them alike. The web processes run on one core, Redis and the load generator on another.

    machine.py   processors and clocks: what a round cost each process, and what else was running
    servers.py   the store, the service and its rivals, started and stopped
    rivals.py    the floor, the plain way and the SET, as servers
    crowd.py     wrk and its script
    plan.py      which rounds are run
    figures.py   what was measured: medians, ratios, goals, tables
    plots.py     the pictures
"""
