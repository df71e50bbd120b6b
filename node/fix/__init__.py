"""FIX: order entry, drop copy and market data over FIXT.1.1 and FIX 5.0 SP2, in a process of its own.

wire        bytes and messages: frames are found and checked, `simplefix` splits and joins their fields
tags        the numbers of fields, and the values that stand for something
fields      a message's fields, read with an error that says which and why
logon       who logs on, and on what terms
session     the rules of FIXT.1.1 for what a client sends: numbers, gaps, tests, rejects
streams     what a client is sent: its report stream (`statemachine.streams`), so that every node sends the same under the same numbers
orders      requests of a client and their commands; what is refused and its answer
reports     a report of the stream as an ExecutionReport
market      market data: subscriptions, snapshots and changes
statuses    statuses of products
counting    figures for Prometheus
server      connections and their bounds
process     the process
"""
