"""State on disk: RocksDB snapshots with a manifest, and the schema ABI. May import `statemachine` only.

abi                  the schema's checksum, the schema as data, and the descriptions of released ones
migration            converts data of one schema to another; migrations has the modules of authors
store                a node's snapshots: the interface of the other modules
manifest, seal       the description of a snapshot, and its checksums
job, frames, writer  write a snapshot in a separate process
transfer             sends a snapshot to another node
rocks                the only file that uses rocksdict
tsv, tsv_values      tables as text, and back
"""
