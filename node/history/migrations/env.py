"""Alembic's entry: run the steps on the connection that `node.history.database` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from node.history.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
