"""Runs stages over shards: local processes now, other engines behind the same interface."""

from codeshell.engine.local import Engine, LocalEngine
from codeshell.engine.stage import map_shards

__all__ = ["Engine", "LocalEngine", "map_shards"]
