"""What a forward pass keeps for the backward pass, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def saved_bytes(model: torch.nn.Module) -> Iterator[dict[int, tuple[int, torch.Tensor]]]:
    """Bytes of each storage that is saved in the `with` block, by its address; the weights are left out.

    The first tensor of each storage is held, so that its address is not given to another.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found
