"""codeshell's operations inside other libraries: one module for each library, imported when it is used."""

from __future__ import annotations

# The models of transformers that `codeshell.patch` serves: for each model type the folder of its modeling file, and its
# attention class. Their modeling code hands the mask to attention as it is, rotates with a function of its own module
# called `apply_rotary_pos_emb`, and has cos and sin with equal halves. tests/integrations runs each of them.
ARCHITECTURES = {
    "gemma2": ("gemma2", "Gemma2Attention"),
    "gemma3_text": ("gemma3", "Gemma3Attention"),
    "granite": ("granite", "GraniteAttention"),
    "llama": ("llama", "LlamaAttention"),
    "mistral": ("mistral", "MistralAttention"),
    "mixtral": ("mixtral", "MixtralAttention"),
    "olmo2": ("olmo2", "Olmo2Attention"),
    "phi3": ("phi3", "Phi3Attention"),
    "qwen2": ("qwen2", "Qwen2Attention"),
    "qwen3": ("qwen3", "Qwen3Attention"),
    "starcoder2": ("starcoder2", "Starcoder2Attention"),
}
