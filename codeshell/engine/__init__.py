"""Runs stages over shards: processes of this machine, or tasks of a Ray cluster behind the same interface."""

from __future__ import annotations

from codeshell.engine.local import Engine, LocalEngine
from codeshell.engine.shard_map import map_shards
from codeshell.errors import UserError

__all__ = ["ENGINES", "Engine", "LocalEngine", "make_engine", "map_shards"]

ENGINES = ("local", "ray")

MAX_WORKERS = 4096
"""Far beyond the cores of any machine; each worker is a process."""


def make_engine(name: str, workers: int = 0, address: str | None = None, module: str | None = None) -> Engine:
    """The engine that a command asks for; `close` it at the end.

    Args:
        name: "local" or "ray".
        workers: tasks at a time; 0 means every core, of this machine or of the cluster.
        address: of a Ray cluster; see `codeshell.engine.ray.RayEngine`.
        module: whose functions will be mapped; see `LocalEngine`.

    Raises:
        UserError: no such engine, an address without Ray, Ray not installed or out of reach.
    """
    if name not in ENGINES:
        raise UserError(f"--engine {name}: no such engine; there are {', '.join(ENGINES)}")
    if not 0 <= workers <= MAX_WORKERS:
        raise UserError(f"--workers {workers}: give 1 to {MAX_WORKERS}, or 0 for every core")
    if name == "ray":
        from codeshell.engine.ray import RayEngine

        return RayEngine(workers, address)
    if address:
        raise UserError(f"--address {address}: only --engine ray connects to a cluster; leave --address out")
    return LocalEngine(workers, module)
