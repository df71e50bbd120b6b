"""The engine process: Raft and the exchange on one event loop, and what keeps them in service."""
