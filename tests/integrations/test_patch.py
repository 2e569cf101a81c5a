"""What `codeshell.patch` touches and what it does not, how a patched model travels, and what is refused."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import subprocess
import sys
from types import MethodType

import pytest
import torch
from helpers.tiny_transformers import KINDS, config, padding, tiny, tokens, transformers

import codeshell
from codeshell.integrations import ARCHITECTURES, patching


def logits(model):
    with torch.no_grad():
        return model(tokens(), attention_mask=padding("left"), use_cache=False).logits


def layers(model):
    return [m for m in model.modules() if type(m).__name__.endswith("Attention")]


def names(model):
    return {type(m).__name__ for m in layers(model)}


def test_every_served_type_is_tested():
    assert set(KINDS) == set(ARCHITECTURES)


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_replaced(kind):
    model = tiny(kind, "eager")
    done = codeshell.patch(model)
    assert done.model_type == kind and done.attention == "eager"
    assert done.rotary == ("model.layers.0.self_attn", "model.layers.1.self_attn")
    assert repr(done).startswith(f"<Patched {kind}: rotary in 2 layers → codeshell.ops.rotary; attention eager → codes")
    assert ("capped at 2.0" in str(done)) == (kind == "gemma2")
    assert names(model) == {"CodeShell" + ARCHITECTURES[kind][1]}


def test_other_models_stay_as_they_are():
    """Even one of the same class that shares the config, and one built afterwards."""
    modeling = transformers.models.llama.modeling_llama
    function, forward = modeling.apply_rotary_pos_emb, modeling.LlamaAttention.forward
    shared = config("llama")
    one, other = transformers.LlamaForCausalLM(shared).eval(), transformers.LlamaForCausalLM(shared).eval()
    before = logits(other)
    codeshell.patch(one)
    assert names(one) == {"CodeShellLlamaAttention"} and names(other) == {"LlamaAttention"}
    assert one.config._attn_implementation == one.model.layers[1].self_attn.config._attn_implementation == "codeshell"
    assert shared._attn_implementation == other.config._attn_implementation == "sdpa"
    assert torch.equal(logits(other), before)
    assert names(transformers.LlamaForCausalLM(shared)) == {"LlamaAttention"}
    assert modeling.apply_rotary_pos_emb is function and modeling.LlamaAttention.forward is forward
    # The function still is what layers and pickles refer to, and computes what it did.
    assert pickle.loads(pickle.dumps(other)).model.layers[0].self_attn.head_dim == 16
    q, k = torch.randn(2, 1, 2, 3, 4)
    cos, sin = torch.randn(2, 1, 3, 4)
    turned = torch.cat((-q[..., 2:], q[..., :2]), -1)
    assert torch.equal(function(q, k, cos, sin)[0], q * cos[:, None] + turned * sin[:, None])
    assert torch.equal(function(q, k, cos, sin, unsqueeze_dim=1)[0], function(q, k, cos, sin, 1)[0])
    assert list(inspect.signature(function).parameters) == ["q", "k", "cos", "sin", "unsqueeze_dim"]


def test_several_models_at_once():
    models = [tiny("llama"), tiny("qwen3"), tiny("llama")]
    for model in models:
        codeshell.patch(model)
    assert torch.equal(logits(models[0]), logits(models[2]))
    codeshell.unpatch(models[0])
    assert names(models[0]) == {"LlamaAttention"} and names(models[2]) == {"CodeShellLlamaAttention"}
    assert not torch.equal(logits(models[0]), logits(models[2]))


def test_twice_is_once():
    model = tiny("llama", "eager")
    first = codeshell.patch(model)
    assert codeshell.patch(model) is first
    before = logits(model)
    codeshell.unpatch(model)
    codeshell.unpatch(model)
    assert model.config._attn_implementation == "eager" and names(model) == {"LlamaAttention"}
    assert codeshell.patch(model) == first and torch.equal(logits(model), before)


def test_the_parts_alone():
    model = tiny("llama")
    done = codeshell.patch(model, attention=False)
    assert done.attention is None and model.config._attn_implementation == "sdpa"
    assert names(model) == {"CodeShellLlamaAttention"}
    done = codeshell.patch(model, rotary=False)
    assert done.rotary == () and names(model) == {"LlamaAttention"}
    assert str(done) == "llama: attention sdpa → codeshell"
    assert str(codeshell.patch(model, rotary=False, attention=False)) == "llama: nothing replaced"
    assert model.config._attn_implementation == "sdpa"


def test_inside_and_outside():
    """The part first and then the whole, and the other way round."""
    for order in (["model", ""], ["", "model"]):
        model = tiny("llama")
        for name in order:
            codeshell.patch(model.get_submodule(name))
        assert names(model) == {"CodeShellLlamaAttention"}
        assert model.config._attn_implementation == "codeshell" or order[0] == "model"
        codeshell.unpatch(model)
        assert names(model) == {"LlamaAttention"}
        assert model.model.config._attn_implementation == model.config._attn_implementation == "sdpa"


def test_a_choice_made_after_patching_stays():
    model = tiny("llama")
    codeshell.patch(model)
    model.set_attn_implementation("eager")
    codeshell.unpatch(model)
    assert model.config._attn_implementation == "eager"


def test_loaded_with_the_implementation():
    model = transformers.AutoModelForCausalLM.from_config(config("llama"), attn_implementation="codeshell")
    done = codeshell.patch(model)
    assert done.attention is None and done.rotary
    codeshell.unpatch(model)
    assert model.config._attn_implementation == "codeshell"


def test_copies():
    model = tiny("llama")
    codeshell.patch(model)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other), logits(model))
    codeshell.unpatch(model)
    assert names(other) == {"CodeShellLlamaAttention"} and other.config._attn_implementation == "codeshell"
    codeshell.unpatch(other)
    assert torch.equal(logits(other), logits(model))


def test_pickle(monkeypatch):
    model = tiny("llama")
    codeshell.patch(model)
    packed = pickle.dumps(model)
    monkeypatch.setattr(patching, "_classes", {})  # as in another process, which has not patched anything
    loaded = pickle.loads(packed)
    assert names(loaded) == {"CodeShellLlamaAttention"} and torch.equal(logits(loaded), logits(model))
    codeshell.unpatch(loaded)
    assert names(loaded) == {"LlamaAttention"} and loaded.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_found_by_name(kind):
    layer = tiny(kind).model.layers[0].self_attn
    patched = getattr(patching, "CodeShell" + type(layer).__name__)
    assert issubclass(patched, type(layer)) and pickle.loads(pickle.dumps(patched)) is patched
    with pytest.raises(AttributeError, match="CodeShellGPT2Attention"):
        _ = patching.CodeShellGPT2Attention


def test_what_is_saved_is_an_ordinary_checkpoint(tmp_path):
    model = tiny("llama")
    before = logits(model)
    codeshell.patch(model)
    model.save_pretrained(tmp_path)
    assert "codeshell" not in (tmp_path / "config.json").read_text().lower()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert names(loaded) == {"LlamaAttention"} and loaded.config._attn_implementation == "sdpa"
    assert torch.equal(logits(loaded), before)


def test_weights_names_and_hooks_stay():
    model = tiny("llama")
    state, calls = model.state_dict(), []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append("hook"))
    codeshell.patch(model)
    logits(model)
    assert calls == ["hook"]
    after = model.state_dict()
    assert list(after) == list(state) and all(after[name] is not None for name in state)
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())


class Peft(torch.nn.Module):
    """What matters of a PeftModel: the adapted model two modules down, and `get_base_model`."""

    def __init__(self, model):
        super().__init__()
        self.base_model = torch.nn.ModuleDict({"model": model})
        self.config = model.config

    def get_base_model(self):
        return self.base_model["model"]


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.compile, Peft, lambda m: torch.nn.DataParallel(Peft(m))])
def test_wrapped_models(wrap):
    model = tiny("llama")
    wrapped = wrap(model)
    done = codeshell.patch(wrapped)
    assert len(done.rotary) == 2 and done.rotary[0] == "model.layers.0.self_attn"
    assert names(model) == {"CodeShellLlamaAttention"} and model.config._attn_implementation == "codeshell"
    peft = next((m for m in wrapped.modules() if isinstance(m, Peft)), None)
    assert peft is None or peft.config is model.config
    assert codeshell.patch(wrapped) is done
    codeshell.unpatch(wrapped)
    assert names(model) == {"LlamaAttention"} and model.config._attn_implementation == "sdpa"


def test_hooks_of_accelerate():
    """Which put a forward on the instance, and the one they wrap beside it."""
    model = tiny("llama")
    want, calls = logits(model), []
    for layer in layers(model):

        def hooked(module, *args, **kwargs):
            calls.append(type(module).__name__)
            return module._old_forward(*args, **kwargs)

        layer._old_forward = layer.forward
        layer.forward = functools.partial(hooked, layer)
    codeshell.patch(model)
    got = logits(model)
    assert calls == ["CodeShellLlamaAttention"] * 2 and not torch.equal(got, want)
    codeshell.patch(model, attention=False)
    codeshell.unpatch(model)
    assert torch.equal(logits(model), want)
    assert all(layer._old_forward.__func__ is type(layer).forward for layer in layers(model))


def refused(model, match):
    """The message, of a model that is afterwards what it was."""
    before = {name: (type(module), dict(module.__dict__)) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=match) as error:
        codeshell.patch(model)
    after = {name: (type(module), dict(module.__dict__)) for name, module in model.named_modules()}
    assert before.keys() == after.keys()
    assert all(before[name][0] is after[name][0] and before[name][1] == after[name][1] for name in before)
    return str(error.value)


def test_a_type_that_is_not_served():
    small = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32, "n_positions": 32}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**small)).eval()
    text = refused(model, "model type 'gpt2' \\(GPT2LMHeadModel\\)")
    assert "llama, mistral" in text and "model.set_attn_implementation('codeshell')" in text
    ids = torch.arange(12)[None]
    want = model(ids, use_cache=False).logits.detach()
    model.set_attn_implementation("codeshell")  # the remedy works
    assert float((model(ids, use_cache=False).logits - want).abs().max()) < 1e-5


def test_a_part_that_is_served():
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64, "sliding_window": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    whole = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = transformers.Gemma3ForConditionalGeneration(whole).eval()
    message = refused(model, "model type 'gemma3' .* as a whole")
    assert "codeshell.patch(model.model.language_model)" in message
    ids = torch.randint(3, 60, (2, 20))
    want = model(ids, use_cache=False).logits.detach()
    codeshell.patch(model.model.language_model)
    assert float((model(ids, use_cache=False).logits - want).abs().max()) < 1e-4


def test_what_is_no_model_of_transformers():
    refused(torch.nn.Linear(2, 2), "cannot serve a Linear: it is no model of transformers")
    refused(torch.nn.DataParallel(torch.nn.Linear(2, 2)), "cannot serve a DataParallel")


def test_a_forward_that_others_replaced(monkeypatch):
    model = tiny("llama")
    layer = model.model.layers[1].self_attn
    layer.forward = MethodType(lambda self, *args, **kwargs: (args[0], None), layer)
    refused(model, "model.layers.1.self_attn.forward is .* set on the instance")
    del layer.forward

    def forward(self, hidden_states, **kwargs):
        return hidden_states, None

    monkeypatch.setattr(type(layer), "forward", forward)
    refused(model, "forward of LlamaAttention is .*forward, which took the place of transformers' own")


def counted(forward, calls):
    def inner(self, *args, **kwargs):
        calls.append(1)
        return forward(self, *args, **kwargs)

    return inner


@pytest.mark.parametrize(
    "decorate",
    [
        lambda forward, calls: functools.wraps(forward)(counted(forward, calls)),
        counted,  # without functools.wraps
        lambda forward, calls: torch.no_grad()(counted(counted(forward, []), calls)),
        lambda forward, calls: torch.compiler.disable(counted(forward, calls)),
        lambda forward, calls: functools.partialmethod(counted(forward, calls)),
    ],
)
def test_a_decorated_forward(monkeypatch, decorate):
    """Decorators such as those of transformers 5.24, which has one on every forward, and of other libraries."""
    model, kind = tiny("llama"), transformers.models.llama.modeling_llama.LlamaAttention
    codeshell.patch(model)
    want = logits(model)
    calls: list[int] = []
    monkeypatch.setattr(kind, "forward", decorate(kind.forward, calls))
    other = tiny("llama")
    codeshell.patch(other)
    assert torch.equal(logits(other), want) and len(calls) == 2
    codeshell.unpatch(other)
    logits(other)
    assert len(calls) == 4


def test_the_forward_in_one_line_or_another(monkeypatch):
    """What the body of a forward looks like has no say: here it rotates in a helper, twice, with another name."""
    modeling = transformers.models.llama.modeling_llama
    model = tiny("llama")
    codeshell.patch(model)
    want, original = logits(model), modeling.LlamaAttention.forward
    rotate = modeling.apply_rotary_pos_emb

    def helper(q, k, cos, sin):
        return rotate(q, k, cos=cos, sin=sin)

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (f(hidden_states).view(shape).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        (q, _), (_, k) = helper(q, k, *position_embeddings), helper(q, k, *position_embeddings)
        attend = transformers.AttentionInterface()[self.config._attn_implementation]
        out, _ = attend(self, q, k, v, attention_mask, scaling=self.scaling, **kwargs)
        return self.o_proj(out.flatten(2)), None

    forward.__module__ = original.__module__
    monkeypatch.setattr(modeling.LlamaAttention, "forward", forward)
    other = tiny("llama")
    codeshell.patch(other)
    assert torch.equal(logits(other), want)


class LoggedAttention(transformers.models.llama.modeling_llama.LlamaAttention):
    """An attention of a user's: the original, and something beside it."""

    def forward(self, *args, **kwargs):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(*args, **kwargs)


class OwnWayAttention(transformers.models.llama.modeling_llama.LlamaAttention):
    """An attention of a user's that rotates in its own way."""

    def forward(self, hidden_states, position_embeddings=None, **kwargs):
        cos, _ = position_embeddings
        return self.o_proj(hidden_states * cos.unsqueeze(1).mean()), None


def test_a_subclass_of_a_user():
    model = tiny("llama")
    codeshell.patch(model)
    want = logits(model)
    for layer in layers(model):
        layer.__class__ = LoggedAttention
    codeshell.patch(model)
    assert names(model) == {"CodeShellLoggedAttention"}
    assert torch.equal(logits(model), want) and all(layer.calls == 1 for layer in layers(model))
    codeshell.unpatch(model)
    assert names(model) == {"LoggedAttention"}
    other = tiny("llama")
    other.model.layers[1].self_attn.__class__ = OwnWayAttention
    codeshell.patch(other)
    with pytest.raises(RuntimeError, match=r"does not rotate by apply_rotary_pos_emb .*patch this model with rota"):
        logits(other)
    codeshell.patch(other, rotary=False)
    assert logits(other).isfinite().all()


def test_a_global_replacement_is_neither_seen_nor_lost(monkeypatch):
    """A replacement as Liger makes it, before or after."""
    modeling = transformers.models.llama.modeling_llama
    model, other = tiny("llama"), tiny("llama")
    want, calls = logits(model), []
    codeshell.patch(model)
    patched = logits(model)
    original = modeling.apply_rotary_pos_emb

    def counting(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", counting)
    assert torch.equal(logits(model), patched) and not calls
    codeshell.patch(other)
    assert torch.equal(logits(other), patched) and not calls
    codeshell.unpatch(model)
    assert torch.equal(logits(model), want) and len(calls) == 2


def test_a_class_derived_from_the_attention():
    """A derived class, as torch's fully_shard makes one."""
    model = tiny("llama")
    layer = model.model.layers[0].self_attn
    layer.__class__ = derived = type("FSDPLlamaAttention", (type(layer),), {})
    codeshell.patch(model)
    assert type(layer).__name__ == "CodeShellFSDPLlamaAttention" and isinstance(layer, derived)
    codeshell.unpatch(model)
    assert type(layer) is derived

    done = codeshell.patch(model)
    layer.__class__ = later = type("Later", (type(layer),), {})
    assert codeshell.patch(model) is done
    with pytest.raises(ValueError, match="cannot undo a Later"):
        codeshell.unpatch(model)
    assert type(layer) is later and model.config._attn_implementation == "codeshell"
    assert type(model.model.layers[1].self_attn).__name__ == "CodeShellLlamaAttention"


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = "import sys, codeshell; dir(codeshell); assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_transformers():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import codeshell\n"
        "try:\n    codeshell.patch\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "need transformers 5.0 or newer, below 6: pip install 'transformers>=5,<6'" in done.stdout, done.stderr


def test_unpatch_of_no_model():
    with pytest.raises(ValueError, match="takes a model, not a NoneType"):
        codeshell.unpatch(None)


def appended(model, layer):
    """The model with one more decoder layer, as depth up-scaling makes it."""
    layer.self_attn.layer_idx = len(model.model.layers)
    model.model.layers.append(layer)
    model.config.num_hidden_layers = len(model.model.layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [*model.config.layer_types, model.config.layer_types[0]]
    return model


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3_text"])
def test_a_layer_with_a_config_of_its_own(kind):
    model = tiny(kind)
    appended(model, copy.deepcopy(model.model.layers[0]))
    own = model.model.layers[2].self_attn.config
    want = logits(model)
    for parts in ({}, {"rotary": False}, {"attention": False}, {}):
        codeshell.patch(model, **parts)
        assert float((logits(model) - want)[padding("left").bool()].abs().max()) < 1e-4
    assert {layer.config._attn_implementation for layer in layers(model)} == {"codeshell"}
    assert own._attn_implementation == "sdpa"  # another model may have it
    codeshell.unpatch(model)
    assert {layer.config._attn_implementation for layer in layers(model)} == {"sdpa"}
    assert torch.equal(logits(model), want)


def test_a_layer_that_is_added_after_the_patch():
    model, ordinary = tiny("llama"), tiny("llama").model.layers[0]
    codeshell.patch(model)
    appended(model, copy.deepcopy(model.model.layers[0]))  # a copy of a patched layer is one
    logits(model)
    codeshell.unpatch(model)
    assert {layer.config._attn_implementation for layer in layers(model)} == {"sdpa"}
    codeshell.patch(model)
    appended(model, ordinary)
    for implementation in ("sdpa", "eager"):
        ordinary.self_attn.config._attn_implementation = implementation
        with pytest.raises(RuntimeError, match=r"call codeshell.patch\(model\) again"):
            logits(model)
    assert len(codeshell.patch(model).rotary) == 4
    assert logits(model).isfinite().all()


def test_adapters_of_peft():
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    for settings in (lora, peft.LoraConfig(target_modules=["up_proj"], modules_to_save=["self_attn"])):
        torch.manual_seed(0)
        before = peft.get_peft_model(tiny("llama"), settings)
        want, weights = logits(before), before.state_dict()
        assert settings is not lora or float((want - logits(tiny("llama"))).abs().max()) > 0.1
        codeshell.patch(before)
        model = tiny("llama")
        codeshell.patch(model)
        after = peft.get_peft_model(model, settings)
        after.load_state_dict(weights)
        for adapted in (before, after):
            assert float((logits(adapted) - want)[padding("left").bool()].abs().max()) < 1e-4
            adapted(tokens(), labels=tokens()).loss.backward()
            trained = [p for p in adapted.parameters() if p.requires_grad]
            assert trained and all(p.grad is not None for p in trained if p.numel())


def test_accelerate():
    accelerate = pytest.importorskip("accelerate")
    model = tiny("llama")
    want = logits(model)
    accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)
    accelerate.hooks.add_hook_to_module(model.model.layers[0].self_attn, accelerate.hooks.ModelHook())
    codeshell.patch(model)
    assert names(model) == {"CodeShellLlamaAttention"}
    assert float((logits(model) - want)[padding("left").bool()].abs().max()) < 1e-4
    accelerate.hooks.remove_hook_from_submodules(model)
    patched = logits(model)
    codeshell.unpatch(model)
    assert torch.equal(logits(model), want) and not torch.equal(patched, want)


def test_another_machine_without_codeshell_reads_what_is_saved(tmp_path):
    model = tiny("llama")
    want = logits(model)
    codeshell.patch(model)
    model.save_pretrained(tmp_path)
    torch.save({"logits": want, "weights": model.state_dict()}, tmp_path / "want.pt")
    code = f"""
import sys
sys.modules["codeshell"] = None
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})
saved = torch.load({str(tmp_path / "want.pt")!r})
model.load_state_dict(saved["weights"])
assert "codeshell" not in str(model.config) and model.config._attn_implementation == "sdpa"
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
