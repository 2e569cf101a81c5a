"""Take a model to llama.cpp: a GGUF of 8.5 bits per weight, what is in it, and how far its weights are from the
model's.

pip install 'codeshell[gguf]'
python examples/export_gguf.py runs/demo/model demo.gguf

Then `llama-server -m demo.gguf --port 8012` answers the editor plug-ins of llama.cpp. The command line does the same:
`codeshell export runs/demo/model --type q8_0 -o demo.gguf`. Without arguments it takes a small random model.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

from codeshell.export import gguf_file, gguf_tokenizer, layouts
from codeshell.export.blocks import FORMATS
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.weight_rows import WeightRows
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.train import train


def small_model(directory: Path) -> Path:
    tokenizer = train([[Path(__file__).read_text(encoding="utf-8")]], 400)
    shape = {"n_positions": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "num_query_groups": 2}
    ids = {"bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot, "n_vocab_used": tokenizer.vocab_size}
    config = CodeShellConfig(vocab_size=tokenizer.padded_vocab_size, **shape, **ids)
    CodeShellForCausalLM(config).save_pretrained(directory)
    tokenizer.save(directory)
    return directory


def main(model: Path, output: Path) -> None:
    # Headers alone are read here; rows follow as they are written.
    weights = WeightRows(model)
    rows, eos = weights.config.vocab_size, weights.config.eos_token_id
    tokenizer = gguf_tokenizer.convert(Tokenizer.load(model), rows, str(model), eos=eos)
    # The file gets its name only after it was read back and compared with the weights.
    template, name = layouts.chat_template(model), model.resolve().name
    count = gguf_file.write(output, weights, tokenizer, FORMATS["q8_0"], name=name, template=template)
    print(f"{output}: {count} tensors, {output.stat().st_size:,} bytes, pre-tokenizer {tokenizer.pre}")

    # Any reader of GGUF sees the same; here gguf's own.
    reader = gguf.GGUFReader(output)
    print("ids of fill-in-the-middle:", {key: value for key, value in tokenizer.ids.items() if key.startswith("fim")})
    stored = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_up.weight")
    exact = weights.read("transformer.h.0.mlp.c_fc.weight").float().numpy()
    error = np.abs(gguf.dequantize(stored.data, stored.tensor_type) - exact).max()
    print(f"largest error of a weight: {error:.1e}; the largest weight: {np.abs(exact).max():.1e}")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:3]]
    main(given[0] if given else small_model(Path("small")), given[1] if len(given) > 1 else Path("small.gguf"))
