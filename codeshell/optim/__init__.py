"""AdamW with this package's kernels and torch.optim.AdamW's arguments and state; and the usual parameter groups."""

from codeshell.optim.adamw import AdamW
from codeshell.optim.groups import parameter_groups

__all__ = ["AdamW", "parameter_groups"]
