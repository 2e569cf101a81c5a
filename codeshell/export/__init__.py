"""Models in the formats of other programs: GGUF for llama.cpp, and the two safetensors layouts.

- `gguf_file` writes a GGUF and reads it back; `gguf_tokenizer` has its tokenizer's part, `blocks` its number formats.
- `layouts` writes a model directory in CodeShell's or Starcoder2's layout.

Both read the weights by rows (codeshell/model/weight_rows.py), so a model is never in memory as a whole.
"""
