"""The module tree as PyTorch prints it: LlamaForCausalLM of transformers 4.43 to 4.47.

Those versions give each attention a rotary embedding of its own besides the model's, and name
the attention after its kernel (SDPA, their default).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from convert import LlamaConfig


@dataclass(frozen=True)
class Module:
    """A module's class, its arguments as PyTorch writes them, and the modules in it by name.

    count is how many equal ones stand there, as ModuleList folds them.
    """

    kind: str
    arguments: str = ""
    children: tuple[tuple[str, "Module"], ...] = ()
    count: int = 1


def module_tree(config: LlamaConfig) -> Module:
    """LlamaForCausalLM(config); no weight is needed for it."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    biased, layers = config.attention_bias, config.num_hidden_layers
    norm = Module("LlamaRMSNorm", f"({hidden},), eps={config.rms_norm_eps}")
    rotary = Module("LlamaRotaryEmbedding")
    attention = _module(
        "LlamaSdpaAttention",
        q_proj=_linear(hidden, queries, biased),
        k_proj=_linear(hidden, keys, biased),
        v_proj=_linear(hidden, keys, biased),
        o_proj=_linear(queries, hidden, biased),
        rotary_emb=rotary,
    )
    mlp = _module(
        "LlamaMLP",
        gate_proj=_linear(hidden, inner, config.mlp_bias),
        up_proj=_linear(hidden, inner, config.mlp_bias),
        down_proj=_linear(inner, hidden, config.mlp_bias),
        act_fn=Module("SiLU"),
    )
    decoder = _module(
        "LlamaDecoderLayer",
        self_attn=attention,
        mlp=mlp,
        input_layernorm=norm,
        post_attention_layernorm=norm,
    )
    decoder = replace(decoder, count=layers)
    stack = _module("ModuleList", **{"0" if layers == 1 else f"0-{layers - 1}": decoder})
    model = _module(
        "LlamaModel", embed_tokens=_embedding(config), layers=stack, norm=norm, rotary_emb=rotary
    )
    head = _linear(hidden, config.vocab_size, biased=False)
    return _module("LlamaForCausalLM", model=model, lm_head=head)


def render(module: Module) -> str:
    """What print(model) writes in PyTorch."""
    return f"{module.kind}({module.arguments}{''.join(_inner(module))})"


def as_json(module: Module) -> dict[str, Any]:
    """The same tree as nested objects; keys that would be empty, or a count of 1, are left out."""
    fields: dict[str, Any] = {"type": module.kind}
    if module.arguments:
        fields["arguments"] = module.arguments
    if module.count > 1:
        fields["count"] = module.count
    if module.children:
        fields["children"] = {name: as_json(child) for name, child in module.children}
    return fields


def _inner(module: Module) -> Iterator[str]:
    for name, child in module.children:
        times = f"{child.count} x " if child.count > 1 else ""
        yield f"\n  ({name}): {times}" + render(child).replace("\n", "\n  ")
    if module.children:
        yield "\n"


def _linear(inputs: int, outputs: int, biased: bool) -> Module:
    return Module("Linear", f"in_features={inputs}, out_features={outputs}, bias={biased}")


def _embedding(config: LlamaConfig) -> Module:
    """A padding token shows in the embedding; a negative one counts from the end."""
    arguments = f"{config.vocab_size}, {config.hidden_size}"
    padding = config.raw.get("pad_token_id")
    if isinstance(padding, int):
        arguments += f", padding_idx={padding % config.vocab_size}"
    return Module("Embedding", arguments)


def _module(kind: str, **children: Module) -> Module:
    return Module(kind, children=tuple(children.items()))
