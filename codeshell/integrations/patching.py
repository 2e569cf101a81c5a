"""`codeshell.patch(model)` and `codeshell.unpatch(model)`: codeshell's operations in one model of transformers.

Only the given model changes, whichever other models of its kind the process has, and whether they are built before or
after. Its attention layers become instances of a subclass, `CodeShellLlamaAttention` and so on. The subclass runs the
original forward, whatever decorates it, and only wraps the cosines that go into it. transformers' function
`apply_rotary_pos_emb` learns to recognise that wrapper; for every other model it computes what it always did. So a
patched model can be copied, pickled, wrapped and saved like any other, and its weights, hooks and module names stay.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch

from codeshell import ops
from codeshell.integrations import ARCHITECTURES
from codeshell.integrations.supported import PreTrainedModel
from codeshell.integrations.transformers import NAME

_RECORD = "_codeshell_patch"  # on a patched model: its `Patched`
_ORIGINAL = "_codeshell_original"  # on a patched layer's class: the class it was
_ATTENTION = "_codeshell_attention"  # on a layer with a config of its own: the attention implementation that it had
_TAUGHT = "_codeshell_taught"  # on a function that recognises `Cosines`: the function itself
_CALLED = "apply_rotary_pos_emb"
_PREFIX = "CodeShell"


@dataclass(frozen=True)
class Patched:
    """What `patch` replaced.

    Attributes:
        model_type: as in the model's config.
        rotary: names of the attention layers that rotate with `codeshell.ops.rotary`.
        attention: the attention implementation that "codeshell" replaces; None if it was left alone.
        notes: cases of this model that no codeshell kernel serves, and what serves them.
    """

    model_type: str
    rotary: tuple[str, ...]
    attention: str | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = []
        if self.rotary:
            parts.append(f"rotary in {len(self.rotary)} layers → codeshell.ops.rotary")
        if self.attention is not None:
            parts.append(f"attention {self.attention} → {NAME}")
        return f"{self.model_type}: " + "; ".join([*(parts or ["nothing replaced"]), *self.notes])

    def __repr__(self) -> str:
        return f"<Patched {self}>"


def patch(model: torch.nn.Module, *, rotary: bool = True, attention: bool = True) -> Patched:
    """Make a transformers model use codeshell's operations; `unpatch` undoes it.

    The model gets its own copy of the config, because the attention implementation is a setting of the config, which
    other models may share. Patching again changes nothing, or changes which of the two parts are replaced.

    Args:
        model: a model of one of the types in `codeshell.integrations.ARCHITECTURES`, bare or inside
            DistributedDataParallel, FSDP, torch.compile or PEFT.
        rotary: replace the rotary embedding.
        attention: set the attention implementation to "codeshell".

    Returns:
        What was replaced; it prints as one line.

    Raises:
        ValueError: the model cannot be served; the message says why and what to do, and the model is untouched.
    """
    # Everything that can be refused is found before anything changes.
    inner = _unwrap(model)
    layers = _layers(inner)
    record = inner.__dict__.get(_RECORD)
    if record is not None and _holds(inner, layers, record) == (rotary, attention):
        return record  # type: ignore[no-any-return]
    # From the original state to the one that is asked for: the rotary embedding by the classes of the layers, the
    # attention by the setting of the config.
    unpatch(inner)
    if rotary:
        for _, layer in layers:
            _become(layer, _patched_class(type(layer)))
    before = inner.config._attn_implementation
    if attention and before != NAME:
        _own_config(model, inner)
        inner.set_attn_implementation(NAME)
    # A layer that was copied (PEFT's modules_to_save, say) has a config of its own, which the model's does not reach.
    for _, layer in layers if attention else ():
        if layer.config._attn_implementation != NAME:
            setattr(layer, _ATTENTION, layer.config._attn_implementation)
            layer.config = copy.deepcopy(layer.config)
            layer.config._attn_implementation = NAME
    # The record is what `unpatch` undoes. An implementation that was "codeshell" before is not ours to undo.
    names = tuple(name for name, _ in layers) if rotary else ()
    replaced = before if attention and before != NAME else None
    notes = _notes(inner, layers[0][1]) if attention else ()
    record = Patched(inner.config.model_type, names, replaced, notes)
    setattr(inner, _RECORD, record)
    return record


def unpatch(model: torch.nn.Module) -> None:
    """Undo `patch` on the model and on every model inside it; a model that is not patched stays as it is.

    Raises:
        ValueError: not a model; or a class was derived from that of a patched layer since, as fully_shard does. The
            model is then untouched.
    """
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"codeshell.unpatch takes a model, not a {type(model).__name__}")
    patched = [module for module in model.modules() if _is_patched(module)]
    for layer in patched:
        if _ORIGINAL not in type(layer).__dict__:
            raise ValueError(
                f"codeshell.unpatch cannot undo a {type(layer).__name__}, a class derived from the patched one; "
                "unpatch the model before the call that derives it (such as fully_shard on the attention layers)"
            )
    # The layers first, then the setting, on each model that has a record: there may be several inside this one.
    for layer in patched:
        _become(layer, _original(layer))
    modules: list[Any] = list(model.modules())
    for module in modules:
        before = module.__dict__.pop(_ATTENTION, None)
        if before is not None and module.config._attn_implementation == NAME:
            module.config._attn_implementation = before
        record = module.__dict__.get(_RECORD)
        if record is not None:
            delattr(module, _RECORD)
            if record.attention is not None and module.config._attn_implementation == NAME:
                module.set_attn_implementation(record.attention)
                # A layer that was copied from a patched one has a config of its own, which the model's does not reach.
                for part in module.modules():
                    own = part.__dict__.get("config")
                    if not isinstance(part, PreTrainedModel) and getattr(own, "_attn_implementation", None) == NAME:
                        own._attn_implementation = record.attention


def apply_rotary_pos_emb(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The replacement of transformers' function of this name.

    Args:
        q, k: (batch, heads, seq, dim).
        cos, sin: (batch or 1, seq, rotary_dim), whose two halves are equal.
    """
    half = cos.shape[-1] // 2
    wide = torch.float64 if cos.dtype == torch.float64 else torch.float32
    cos, sin = cos[..., :half].to(wide), sin[..., :half].to(wide)
    # To (batch, seq, heads, dim). Tables that all rows share are rows of positions; otherwise each token has a row of
    # its own, and the batch becomes one long sequence.
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    if cos.shape[0] == 1:
        q, k = ops.rotary(q, k, cos[0], sin[0])
    else:
        batch, seq = q.shape[:2]
        q, k = ops.rotary(*(x.flatten(0, 1) for x in (q, k, cos, sin)))
        q, k = (x.view(batch, seq, *x.shape[1:]) for x in (q, k))
    return q.transpose(1, 2), k.transpose(1, 2)


def _unwrap(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside the wrappers of other libraries."""
    # Wrappers may be nested, so this unwraps until it finds a model of transformers.
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if callable(getattr(inner, "get_base_model", None)):  # PEFT
            wrapped = inner.get_base_model()
        else:  # torch.compile; DistributedDataParallel, DataParallel, FSDP, DeepSpeed
            wrapped = getattr(inner, "_orig_mod", getattr(inner, "module", None))
        if not isinstance(wrapped, torch.nn.Module) or wrapped is inner:
            raise ValueError(
                f"codeshell.patch cannot serve a {type(model).__name__}: it is no model of transformers, and none is "
                "inside it; use codeshell.ops in its own code"
            )
        inner = wrapped
    return inner


def _layers(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """(name, layer) of the attention layers to replace; ValueError if one of them cannot be."""
    kind = model.config.model_type
    what = f"codeshell.patch cannot serve model type {kind!r} ({type(model).__name__})"
    if kind not in ARCHITECTURES:
        # A model of several (of text and images, say) may hold one that can be patched on its own.
        for name, part in model.named_modules():
            if isinstance(part, PreTrainedModel) and part is not model and part.config.model_type in ARCHITECTURES:
                raise ValueError(
                    f"{what} as a whole; patch the {part.config.model_type} inside it: codeshell.patch(model.{name})"
                )
        raise ValueError(
            f"{what}: its rotary embedding is not one that codeshell knows. model.set_attn_implementation({NAME!r}) "
            f"gives it the attention alone; whole models are {', '.join(ARCHITECTURES)}"
        )
    original = getattr(_modeling(kind), ARCHITECTURES[kind][1])
    # All attention layers of the class, wherever they are in the model.
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, original)]
    if not layers:
        raise ValueError(
            f"{what}: it has no layer of transformers' {original.__name__}. If it was loaded with trust_remote_code, "
            "load it without that"
        )
    for name, layer in layers:
        reason = _obstacle(layer, _modeling(kind))
        if reason:
            raise ValueError(f"{what}: {name}.{reason}. Patch the model before the library that did this")
    return layers


def _obstacle(layer: torch.nn.Module, modeling: ModuleType) -> str | None:
    """Why the layer cannot be made to rotate with codeshell, or None."""
    # A forward may be decorated as often as it likes, but a stranger in its place rotates in a way of its own. What a
    # subclass of a user does is not looked into: it calls the original, or `Cosines` says that it does not.
    kind = _original(layer)
    owner = next(base for base in kind.__mro__ if "forward" in base.__dict__)
    if owner.__module__ == modeling.__name__ and not _leads_to(owner.__dict__["forward"], modeling.__name__):
        described = _describe(owner.__dict__["forward"])
        return f"forward of {kind.__name__} is {described}, which took the place of transformers' own"
    if not callable(getattr(modeling, _CALLED, None)):
        return f"forward of {kind.__name__} cannot rotate with codeshell: {modeling.__name__} has no {_CALLED}"
    # accelerate keeps the forward that it wraps on the instance, and that one can be exchanged too.
    if "forward" in layer.__dict__:
        bound = [layer.__dict__.get(name) for name in ("_old_forward", "forward")]
        if not any(isinstance(x, MethodType) and x.__func__ is type(layer).forward for x in bound):
            return f"forward is {_describe(layer.__dict__['forward'])}, set on the instance"
    return None


def _leads_to(function: Any, module: str, depth: int = 8) -> bool:
    """Whether a function is of the module, or wraps one that is: by `functools`, or as a variable of a closure."""
    if isinstance(function, FunctionType) and function.__module__ == module and not hasattr(function, "__wrapped__"):
        return True
    if depth == 0:
        return False
    inner = [getattr(function, name, None) for name in ("__wrapped__", "__func__", "func")]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            inner.append(cell.cell_contents)
        except ValueError:  # a variable that has no value yet
            continue
    return any(_leads_to(x, module, depth - 1) for x in inner if callable(x) and not isinstance(x, type))


def _describe(function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', None)}.{name}"


def _holds(model: PreTrainedModel, layers: list[tuple[str, Any]], record: Patched) -> tuple[bool, bool] | None:
    """Which parts (rotary, attention) of a patched model are codeshell's; None if a layer differs from the others."""
    patched = {_is_patched(layer) for _, layer in layers}
    if len(patched) > 1 or bool(record.rotary) not in patched:
        return None
    implementations = {model.config._attn_implementation, *(layer.config._attn_implementation for _, layer in layers)}
    if len(implementations) > 1:
        return None
    return bool(record.rotary), implementations == {NAME}


def _notes(model: PreTrainedModel, layer: Any) -> tuple[str, ...]:
    """What no kernel serves in this model; its layers are alike, so one is enough to tell."""
    notes = []
    if model.config.model_type == "gemma2" and layer.attn_logit_softcapping is not None:
        notes.append(f"scores capped at {layer.attn_logit_softcapping}: attention written out in PyTorch")
    elif layer.head_dim % 16 or layer.head_dim > 256:
        notes.append(f"heads of {layer.head_dim}: attention by torch's SDPA")
    return tuple(notes)


def _own_config(model: torch.nn.Module, inner: PreTrainedModel) -> None:
    """Give the modules a copy of the model's config, in place of the one that other models may share."""
    copies: dict[int, Any] = {}  # deepcopy's memo: the id of an object that was copied, and its copy
    copy.deepcopy(inner.config, copies)
    for module in model.modules():
        copied = copies.get(id(module.__dict__.get("config")))
        if copied is not None:
            module.config = copied


def _modeling(kind: str) -> ModuleType:
    """The module of transformers that defines the models of a type."""
    folder, _ = ARCHITECTURES[kind]
    return importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")


def _is_patched(module: torch.nn.Module) -> bool:
    return hasattr(type(module), _ORIGINAL)


def _original(layer: torch.nn.Module) -> type[torch.nn.Module]:
    """The class of a layer before it was patched; its class, if it was not."""
    kind: type[torch.nn.Module] = getattr(type(layer), _ORIGINAL, type(layer))
    return kind


def _become(layer: torch.nn.Module, kind: type[torch.nn.Module]) -> None:
    """Change the class of a layer, and the forward that accelerate's hooks keep on the instance."""
    # `forward` itself is there after accelerate has removed its hook.
    for name in ("_old_forward", "forward"):
        bound = layer.__dict__.get(name)
        if isinstance(bound, MethodType) and bound.__func__ is type(layer).forward:
            setattr(layer, name, MethodType(kind.forward, layer))
    layer.__class__ = kind


_classes: dict[tuple[type, Any], type[torch.nn.Module]] = {}


def _patched_class(original: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The subclass whose forward rotates with codeshell: one for each class and each forward that it may have."""
    called: Any = original.forward
    key = (original, called)
    if key not in _classes:
        folders = {f"transformers.models.{folder}.modeling_{folder}" for folder, _ in ARCHITECTURES.values()}
        modeling = sys.modules[next(base.__module__ for base in original.__mro__ if base.__module__ in folders)]

        # The original runs as it is, whatever decorates it. Only its cosines come in a wrapper of ours, which its call
        # of `apply_rotary_pos_emb` recognises.
        @functools.wraps(called)
        def forward(
            self: Any, hidden_states: Any, position_embeddings: Any = None, *arguments: Any, **keywords: Any
        ) -> Any:
            if not torch.compiler.is_compiling():
                _teach(modeling)  # another library may have put its own function there since
            if position_embeddings is not None:
                cos, sin = position_embeddings
                position_embeddings = (Cosines(cos), sin)
            return called(self, hidden_states, position_embeddings, *arguments, **keywords)

        _teach(modeling)
        _classes[key] = type(
            _PREFIX + original.__name__,
            (original,),
            {"forward": forward, "__module__": __name__, "__doc__": original.__doc__, _ORIGINAL: original},
        )
    return _classes[key]


class Cosines:
    """The cosines on their way from a patched layer to `apply_rotary_pos_emb`, which they tell to use codeshell."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def __getattr__(self, name: str) -> Any:
        # Without this, a forward that rotates in some other way would fail with a riddle.
        if name.startswith("_"):  # what Python itself and torch.compile look for
            raise AttributeError(name)
        raise RuntimeError(
            f"codeshell.patch gave its rotary embedding to an attention layer that does not rotate by {_CALLED} (it "
            f"asked for cos.{name}); patch this model with rotary=False"
        )


def _teach(modeling: ModuleType) -> None:
    """Let `apply_rotary_pos_emb` of a modeling module recognise `Cosines`; with tensors it does what it always did.

    The function stays the same object, with the same name, because unpatched layers hold it and pickle looks it up.
    So its body is exchanged, not the function.
    """
    names = modeling.__dict__
    function = names[_CALLED]
    if getattr(function, _TAUGHT, None) is function:  # not a copy of this mark by functools.wraps
        return
    if isinstance(function, FunctionType) and function.__globals__ is names and not function.__closure__:
        before = FunctionType(function.__code__, names, _CALLED, function.__defaults__)
        before.__kwdefaults__ = function.__kwdefaults__
        # The new body finds these two among the names of the modeling module, where it lives.
        names["_codeshell_rotary"], names["_codeshell_original"] = rotary_or_none, before
        function.__wrapped__ = before  # type: ignore[attr-defined]
        function.__defaults__ = function.__kwdefaults__ = None
        function.__code__ = _body.__code__
    else:  # put there by another library, which has it elsewhere: that one stays as it is
        replaced = function

        @functools.wraps(replaced)
        def function(q: Any, k: Any, cos: Any, sin: Any, *arguments: Any, **keywords: Any) -> Any:
            rotated = rotary_or_none(q, k, cos, sin)
            return replaced(q, k, cos, sin, *arguments, **keywords) if rotated is None else rotated

        names[_CALLED] = function
    setattr(function, _TAUGHT, function)


def rotary_or_none(q: Any, k: Any, cos: Any, sin: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """q and k rotated by codeshell if a patched layer asks; None if another one does."""
    return apply_rotary_pos_emb(q, k, cos.table, sin) if isinstance(cos, Cosines) else None


def _body(q, k, cos, sin, *arguments, **keywords):  # type: ignore[no-untyped-def]
    rotated = _codeshell_rotary(q, k, cos, sin)  # type: ignore[name-defined]  # noqa: F821
    if rotated is not None:
        return rotated
    return _codeshell_original(q, k, cos, sin, *arguments, **keywords)  # type: ignore[name-defined]  # noqa: F821


def __getattr__(name: str) -> Any:
    """The subclasses by name, which is how a pickled model finds them."""
    for kind, (_, original) in ARCHITECTURES.items():
        if name == _PREFIX + original:
            return _patched_class(getattr(_modeling(kind), original))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
