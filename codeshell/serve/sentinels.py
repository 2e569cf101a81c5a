"""The gap in a prompt that is one text, as Continue, Refact and CodeShell's plug-ins send it.

They write the fill-in-the-middle tokens of a model's family as text around the two sides of the cursor:

    LEAD <fim_prefix> PREFIX <fim_suffix> SUFFIX <fim_middle>        Continue, Refact, CodeShell for VS Code
    LEAD <fim_suffix> SUFFIX <fim_prefix> PREFIX <fim_middle>        CodeShell for IntelliJ, Refact

A tokenizer here never reads a special token out of a text, so the server takes such a prompt apart. What is between
the three strings stays text, whatever it holds; and only a prompt that ends with the third of them is taken apart, so
code that talks about these tokens is not.
"""

from __future__ import annotations

from typing import NamedTuple

from codeshell.serve.errors import field_error
from codeshell.tokenizer.families import FIM, Fim


class Gap(NamedTuple):
    """The parts of a prompt: the text before the first sentinel, and the two sides of the cursor."""

    lead: str
    prefix: str
    suffix: str


def split(prompt: str, field: str = "prompt") -> Gap | None:
    """The parts of a prompt that is a template of any known family, filled in; None for a plain text.

    The strings of all families count, because a plug-in chooses them by the name of the model in its settings.

    Raises:
        RequestError: one of the strings is there twice, so what is prefix and what is suffix is anyone's guess.
    """
    family = next((fim for fim in FIM if _is_template(prompt, fim)), None)
    if family is None:
        return None
    names = [family.prefix, family.suffix, family.middle]
    for name in names:
        if prompt.count(name) > 1:
            raise field_error(
                field,
                f"has {name} more than once, so the gap is not certain; send the two sides as fields "
                "(prompt and suffix, or input_prefix and input_suffix of /infill)",
                "ambiguous_prompt",
            )
    text = prompt[: -len(family.middle)]
    at_prefix, at_suffix = text.index(family.prefix), text.index(family.suffix)
    if at_prefix < at_suffix:
        lead, rest = text.split(family.prefix)
        prefix, suffix = rest.split(family.suffix)
    else:
        lead, rest = text.split(family.suffix)
        suffix, prefix = rest.split(family.prefix)
    return Gap(lead, prefix, suffix)


def _is_template(prompt: str, fim: Fim) -> bool:
    return prompt.endswith(fim.middle) and fim.prefix in prompt and fim.suffix in prompt
