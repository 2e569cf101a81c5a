"""AdamW with this package's kernels and torch.optim.AdamW's arguments and state; Muon beside it; parameter groups."""

from codeshell.optim.adamw import AdamW
from codeshell.optim.groups import parameter_groups
from codeshell.optim.muon import Muon, muon_groups

__all__ = ["AdamW", "Muon", "muon_groups", "parameter_groups"]
