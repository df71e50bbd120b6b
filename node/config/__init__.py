"""The files that an operator writes: a node's configuration, and trading calendars."""
