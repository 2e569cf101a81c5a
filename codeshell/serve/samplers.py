"""llama.cpp's list of samplers: what is not in it is off."""

from __future__ import annotations

from dataclasses import replace

from codeshell.model.session import Settings
from codeshell.serve.errors import shown
from codeshell.serve.fields import Fields

KNOWN = frozenset(
    {"penalties", "dry", "top_n_sigma", "top_k", "typ_p", "typical_p", "top_p", "min_p", "xtc", "temperature", "infill"}
)
"""Names of llama.cpp's. Those that are not done here (dry, xtc, typical_p, top_n_sigma) do nothing in llama.cpp either
unless a request sets them, and such a field is refused."""


def read_samplers(fields: Fields) -> frozenset[str] | None:
    """The samplers of a request; None where it names none, and all are on."""
    value = fields.get("samplers")
    if value is None:
        return None
    names = value.split(";") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name in KNOWN for name in names):
        raise fields.error("samplers", f"is {shown(value)}; send a list of {', '.join(sorted(KNOWN))}")
    return frozenset(names)


def apply_samplers(settings: Settings, samplers: frozenset[str] | None) -> Settings:
    """The settings with what is not in the list off.

    `infill`, which llama.cpp's editor plug-ins ask for, looks for the token that the likely ones begin with and keeps
    few. Here it is the likeliest token: a suggestion in an editor is to be the same when it is asked for again.
    """
    if samplers is None:
        return settings
    if "infill" in samplers:
        return replace(settings, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
    if "penalties" not in samplers:
        settings = replace(settings, repeat_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    return replace(
        settings,
        # Without it, probabilities are what the model says.
        temperature=settings.temperature if "temperature" in samplers else 1.0,
        top_k=settings.top_k if "top_k" in samplers else 0,
        top_p=settings.top_p if "top_p" in samplers else 1.0,
        min_p=settings.min_p if "min_p" in samplers else 0.0,
    )
