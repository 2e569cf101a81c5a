"""The CodeShell model: configuration, network, checkpoints, generation."""

from __future__ import annotations

from codeshell.model.cache import KVCache
from codeshell.model.config import CodeShellConfig
from codeshell.model.modules import CodeShellForCausalLM, ModelOutput

__all__ = ["CodeShellConfig", "CodeShellForCausalLM", "KVCache", "ModelOutput"]
