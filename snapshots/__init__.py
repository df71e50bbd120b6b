"""State on disk: RocksDB snapshots with a manifest, and the schema ABI. May import `statemachine` only.

abi                  the schema's checksum, what it is made of, and the descriptions of released ones
migration            data of one schema as data of another; migrations has what authors wrote
store                a node's snapshots: the door to all else
manifest, seal       what a snapshot says of itself, and how it is known to be what was written
job, frames, writer  writing one in a process of its own
transfer             sending one to another node
rocks                the only file that knows rocksdict
tsv, tsv_values      tables as text, and back
"""
