"""Compares Quorumbook with alternatives. Both sides are measured in turns, in one run on this machine.

    make compare          # or: python -m loadtest.compare [--quick] [--json] [--record docs/benchmarks.md]

rows        the rows of the table: goal, figures of both sides, ratio, verdict
processes   CPU time and memory of processes, read from /proc
etcd        three etcd members on loopback
requests    HTTP requests and native frames that are signed and encoded before the clock starts
wrk         the load generator `wrk`, and what it reports
cluster     a Quorumbook cluster under these loads
openloop     a load generator that sends at intended times, whether or not earlier requests were answered
core        the engine in one process, beside `matching-engine` and a plain price-time book
"""
