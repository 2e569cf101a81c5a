"""Put codeshell's rotary embedding, attention and AdamW into a transformers model, and train it for a few steps.

pip install 'transformers>=5'
python examples/patch_transformers.py

The model is small, random and made from a config, so nothing is downloaded. It learns the bytes of this file.
"""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import codeshell
from codeshell.optim import AdamW

BATCH, CONTEXT, STEPS = 8, 128, 30


def main() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,  # one token per byte
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,  # grouped-query attention: four query heads share a key/value head
    )
    model = LlamaForCausalLM(config)
    text = torch.tensor(list(Path(__file__).read_bytes()))  # (bytes,) int64

    with torch.no_grad():
        before = model(text[None, :CONTEXT]).logits
        print(codeshell.patch(model))  # changes this model alone, and says what it replaced
        after = model(text[None, :CONTEXT]).logits
    print(f"largest difference of a logit: {(after - before).abs().max().item():.1e}")

    # The arguments and the state are those of torch.optim.AdamW; master_weights=True suits a bf16 model.
    optimizer = AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(1, STEPS + 1):
        starts = torch.randint(len(text) - CONTEXT, (BATCH,))
        ids = torch.stack([text[start : start + CONTEXT] for start in starts.tolist()])  # (BATCH, CONTEXT)
        loss = model(ids, labels=ids).loss  # nats per byte
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 1 or step % 10 == 0:
            print(f"step {step:3}  loss {loss.item():.3f}")

    codeshell.unpatch(model)  # the model is transformers' own again, with the trained weights


if __name__ == "__main__":
    main()
