"""Chat templates with the features of those of known families, in words of our own, and small tokenizers for them.

Each has transformers' `{% generation %}` blocks; `without_blocks` takes them out, as most published templates are.
"""

from __future__ import annotations

import json
import re
from typing import Any

from transformers import PreTrainedTokenizerFast

from codeshell.tokenizer import Tokenizer
from helpers import hub_tokenizers

CHATML = """\
{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}
{{- '\\n' }}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
"""The plain form: a role, a line end, a text, a token, a line end."""

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou help with code.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>' ~ '\\n' }}
    {%- elif message.role == "assistant" and not message.tool_calls %}
        {{- '<|im_start|>assistant\\n' }}{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}
        {{- '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""Qwen2.5: a system message of its own where there is none, tools, one branch for each role."""

LLAMA = """\
{%- set state = namespace(system='') %}
{{- bos_token }}
{%- if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set state.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + state.system + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}
    {%- else %}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
"""Llama-3: a token that begins the text, headers of three tokens, texts without white space at their ends."""

DEEPSEEK = """\
{%- set found = namespace(system=false) -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}{%- set found.system = true -%}{%- endif -%}
{%- endfor -%}
{{ bos_token }}{%- if not found.system -%}
{{ 'You are an assistant for programs.\\n' }}
{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' %}
{{ message['content'] + '\\n' }}
    {%- elif message['role'] == 'user' %}
{{ '### Instruction:\\n' + message['content'] + '\\n' }}
    {%- else %}
{{ '### Response:\\n' }}{% generation %}{{ message['content'] + '\\n<|EOT|>' }}{% endgeneration %}
{{ '\\n' }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}
{{ '### Response:\\n' }}
{%- endif -%}
"""
"""DeepSeek-Coder: headings as text, an end that is a token of its own after a line end."""

BRACKETS = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}{{ '[ASK] ' + message['content'] + ' [/ASK]' }}
    {%- else %}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
"""
"""Mistral: roles that must alternate, no system message, no prompt of its own for an answer."""

TEMPLATES = {
    "chatml": (CHATML, "qwen2"),
    "qwen": (QWEN, "qwen2"),
    "llama": (LLAMA, "llama-3"),
    "deepseek": (DEEPSEEK, "deepseek-coder"),
    "brackets": (BRACKETS, "starcoder2"),
}
"""Each with the family of its tokenizer."""

SYSTEMLESS = {"brackets"}

_ENDS = {
    "qwen2": (None, "<|endoftext|>"),
    "llama-3": ("<|begin_of_text|>", "<|end_of_text|>"),
    "deepseek-coder": ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    "starcoder2": ("<|endoftext|>", "<|endoftext|>"),
}
"""The tokens that begin and end a text."""


def without_blocks(template: str) -> str:
    # A comment in its place keeps what a tag does to the white space beside it.
    return re.sub(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}", r"{#\1 \2#}", template)


def tree(family: str) -> dict[str, Any]:
    """The family's `tokenizer.json`, with the tokens that its template names."""
    found = hub_tokenizers.tree(family)
    known = {token["content"] for token in found["added_tokens"]}
    first = 1 + max(token["id"] for token in found["added_tokens"])
    first = max(first, 1 + max(found["model"]["vocab"].values()))
    for name in ("<|start_header_id|>", "<|end_header_id|>") if family == "llama-3" else ():
        if name not in known:
            found["added_tokens"].append(hub_tokenizers.added(first, name))
            first += 1
    return found


def tokens(family: str) -> dict[str, str]:
    """`bos_token` and `eos_token`, as a configuration declares them."""
    begin, end = _ENDS[family]
    return {"eos_token": end} | ({"bos_token": begin} if begin else {})


def ours(family: str) -> Tokenizer:
    return Tokenizer(json.dumps(tree(family), ensure_ascii=False), family)


def theirs(family: str, template: str) -> PreTrainedTokenizerFast:
    """transformers' tokenizer with a chat template."""
    made = PreTrainedTokenizerFast(tokenizer_object=hub_tokenizers.library(tree(family)), **tokens(family))
    made.chat_template = template
    return made
