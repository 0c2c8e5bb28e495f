"""The preference store, in SQLite or PostgreSQL."""

from prefloop.data.store.lineage import Node, lineage
from prefloop.data.store.nearest import nearest_store
from prefloop.data.store.store import Store
from prefloop.data.store.values import (
    AddedItems,
    Choice,
    Conflict,
    Export,
    Filters,
    Item,
    Judgement,
    Selection,
    Source,
)

__all__ = [
    "AddedItems",
    "Choice",
    "Conflict",
    "Export",
    "Filters",
    "Item",
    "Judgement",
    "Node",
    "Selection",
    "Source",
    "Store",
    "lineage",
    "nearest_store",
]
