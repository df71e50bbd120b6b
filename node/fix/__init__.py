"""FIX: order entry, drop copy and market data over FIXT.1.1 and FIX 5.0 SP2, in a separate process.

wire        bytes and messages: finds and checks frames; `simplefix` splits and joins their fields
tags        tag numbers, and enumerated values
fields      reads a message's fields; an error names the field and the reason
logon       authenticates a Logon and returns its terms
session     the rules of FIXT.1.1 for a client's messages: sequence numbers, gaps, test requests, rejects
sending     sends messages from a report stream (`statemachine.streams`), so that every node sends the same ones under the
            same numbers
orders      a client's requests, their commands, and the answers to refused ones
reports     converts a report of the stream to an ExecutionReport
market      market data and product statuses: subscriptions, snapshots and changes
counting    counters for Prometheus
server      connections and their bounds
process     the process
"""
