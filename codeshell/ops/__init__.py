"""The operations of the model: checked arguments, one meaning on every device.

On the CPU an operation is a C++ kernel of `codeshell._C` where that serves the case, else a few lines of PyTorch.
"""

from __future__ import annotations

from codeshell.ops.attention import attention, packed_attention
from codeshell.ops.decode import decode_attention
from codeshell.ops.gelu import bias_gelu, gelu
from codeshell.ops.linear import linear
from codeshell.ops.loss import linear_cross_entropy
from codeshell.ops.norm import residual_layer_norm
from codeshell.ops.rotary import rotary, rotary_qkv

__all__ = [
    "attention",
    "bias_gelu",
    "decode_attention",
    "gelu",
    "linear",
    "linear_cross_entropy",
    "packed_attention",
    "residual_layer_norm",
    "rotary",
    "rotary_qkv",
]
