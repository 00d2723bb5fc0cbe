"""`make capacity`: how many web processes, shards and gigabytes a demand takes, from costs that were measured.

model.py     the formulas
measure.py   the rounds: what a request costs web processes and shards, in several configurations
cluster.py   primaries of a Valkey Cluster on loopback
tables.py    the costs, and predictions beside measurements, as the document shows them
"""
