"""How a conversation becomes text for tether-demo: the markers of the roles, and the chat template."""

from __future__ import annotations

SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
# Control tokens: text that merely spells one of them is tokenized letter by letter and opens no role.
MARKERS = (SYSTEM, USER, ASSISTANT, END)

TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}<|system|>{{ message['content'] | trim }}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] | trim }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] | trim }}<|end|>"
    "{% else %}{{ raise_exception('tether-demo knows the roles system, user and assistant only') }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
