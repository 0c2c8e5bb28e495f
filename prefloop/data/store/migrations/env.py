"""Run by Alembic. The store hands over its own connection, within a transaction, so that a migration is done whole or not at all."""

from alembic import context

from prefloop.data.store.database import VERSION_TABLE
from prefloop.data.store.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    # SQLite changes a table by rebuilding it. That drops the table's triggers: a migration that does so creates them again.
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
