"""The layers of Llama, Qwen2 and Qwen3, as few operations: for replies that share a prompt.

    ids --embed--> x --layers, each of which may look at other tokens (`attend`)--> x --> logits

transformers has one cache a reply, in which the prompt is copied, and some hundred small
operations a layer.  Here a layer is what the textbook says it is, and who looks at what is left
to its users: lanes.py speaks token by token, said.py reads replies that are known, with gradient.
The weights are the model's own: linear layers that are trained whole and read the same input are
multiplied as one; adapters and 4-bit layers are called.  What is computed is the same; `supports`
says for which models.  Knows tokens alone.
Exercise: let `look` forget `before`, so that a reply sees its own words alone, and speak."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

# S states, G lanes (replies to one state, side by side), P tokens of a prompt, R tokens of a reply
# at most, t tokens said so far, D width of a hidden state, F width of the MLP, V vocabulary,
# H query heads, K key heads (each serves g = H / K query heads), d width of a head

KNOWN = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# Kinds of RoPE whose angles do not depend on how long a text has become.
STEADY = {"default", "linear", "llama3", "yarn"}
Product = Callable[[Tensor], Tensor]
# (layer, queries, keys, values) -> what was seen [.., H d]; None: nothing reads on
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor | None]


def supports(model) -> bool:
    """Whether this pass computes what the model does."""
    model = without_adapter(model)
    if type(model) not in KNOWN:
        return False
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ())
    steady = config.rope_parameters["rope_type"] in STEADY
    return steady and kinds <= {"full_attention"} and config.hidden_act == "silu"


def without_adapter(model):
    """The transformers model inside a LoRA model, whose linear layers are then the adapter's."""
    kinds = {c.peft_type for c in getattr(model, "peft_config", {}).values()}
    return model.get_base_model() if kinds == {"LORA"} else model


# ------------------------------------------------------------------------------ a layer
class Layer(NamedTuple):
    """The parts of a layer, in the order in which they are used."""
    before: Tensor               # [D] weight of the norm before attention
    qkv: Product                 # [.., D] -> [.., (H + 2 K) d]
    heads: Tensor | None         # [H + K, d] weights of Qwen3's norms of queries and keys
    out: Product                 # [.., H d] -> [.., D]
    after: Tensor                # [D] weight of the norm before the MLP
    gate_up: Product             # [.., D] -> [.., 2 F]
    down: Product                # [.., F] -> [.., D]


def product(*linears: nn.Module) -> Product:
    """Linear layers that read the same input, as one: [.., in] -> [.., sum of their outs]."""
    if len(linears) == 1:
        return linears[0]
    if any(type(linear) is not nn.Linear for linear in linears):
        return lambda x: torch.cat([linear(x) for linear in linears], -1)
    weight = torch.cat([linear.weight for linear in linears])
    if torch.is_autocast_enabled(weight.device.type):
        weight = weight.to(torch.get_autocast_dtype(weight.device.type))
    bias = None
    if linears[0].bias is not None:
        bias = torch.cat([linear.bias for linear in linears])
    return lambda x: F.linear(x, weight, bias)


class RMSNorm(torch.autograd.Function):
    """y = w x / rms(x), with its gradient worked out by hand: half the time of torch's.

    With u = x / rms(x) and h = w dL/dy:  dL/dx = (h - u mean(h u)) / rms(x),  dL/dw = u dL/dy.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [.., n], its norm over n; weight [n] or [heads, n]; eps is added to the mean square."""
        u, over_rms = in_units(x, eps)
        ctx.save_for_backward(u, over_rms, weight)
        ctx.dtype = x.dtype
        return weight * u.to(x.dtype)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor | None, None]:
        u, over_rms, weight = ctx.saved_tensors
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (g * u).sum_to_size(weight.shape)
        h = g.float() * weight
        of_x = torch.addcmul(h, u, (h * u).mean(-1, keepdim=True), value=-1) * over_rms
        return of_x.to(ctx.dtype), of_weight, None


def in_units(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x), [.., n] in fp32, and 1 / rms(x), [.., 1]."""
    wide = x.float()
    square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1]
    over_rms = (square + eps).rsqrt()
    return wide * over_rms, over_rms


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [.., n] at a root mean square of 1, then times the weight, [n] or [heads, n]."""
    if torch.is_grad_enabled():
        return RMSNorm.apply(x, weight, eps)
    # A token's norms are so small that what autograd notes down would take longer than they do.
    u, _ = in_units(x, eps)
    return weight * u.to(x.dtype)


class Stack:
    """The layers of a model.

    To be made anew after an optimiser step: what is multiplied as one is a copy."""

    def __init__(self, model):
        base = without_adapter(model)
        config = base.config
        self.H = config.num_attention_heads
        self.K = config.num_key_value_heads
        self.d = getattr(config, "head_dim", None) or config.hidden_size // self.H
        self.eps = config.rms_norm_eps
        self.body = base.model
        self.head = base.get_output_embeddings()
        self.layers = [self._layer(layer) for layer in self.body.layers]

    def _layer(self, layer) -> Layer:
        attention = layer.self_attn
        mlp = layer.mlp
        heads = None
        if hasattr(attention, "q_norm"):
            of_queries = attention.q_norm.weight.expand(self.H, -1)
            of_keys = attention.k_norm.weight.expand(self.K, -1)
            heads = torch.cat([of_queries, of_keys])
        return Layer(
            layer.input_layernorm.weight,
            product(attention.q_proj, attention.k_proj, attention.v_proj), heads,
            product(attention.o_proj),
            layer.post_attention_layernorm.weight,
            product(mlp.gate_proj, mlp.up_proj), product(mlp.down_proj),
        )

    def angles(self, positions: int) -> tuple[Tensor, Tensor]:
        """RoPE's cosine and signed sine at each position, two of [positions, d].

        x is turned by x cos + (the halves of x swapped) sin."""
        weight = self.body.norm.weight
        number = torch.arange(positions, device=weight.device)
        cos, sin = self.body.rotary_emb(weight.float(), number[None])                # [1, n, d]
        left, right = sin[0].chunk(2, -1)
        return cos[0], torch.cat([-left, right], -1)

    def __call__(self, ids: Tensor, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """ids [..] and their angles [.., 1, d] -> hidden states [.., D] before the last norm."""
        x = self.body.embed_tokens(ids)                                              # [.., D]
        for number, layer in enumerate(self.layers):
            seen = attend(number, *self._queries_keys_values(layer, x, turn))        # [.., H d]
            if seen is None:
                return x
            x = x + layer.out(seen)
            x = x + self._mlp(layer, x)
        return x

    def _mlp(self, layer: Layer, x: Tensor) -> Tensor:
        """[.., D] -> [.., D].  A function of its own: what it read is freed with it."""
        read = layer.gate_up(rms_norm(x, layer.after, self.eps))                     # [.., 2 F]
        gate, up = read.chunk(2, -1)
        return layer.down(F.silu(gate) * up)

    def _queries_keys_values(self, layer: Layer, x: Tensor,
                             turn: tuple[Tensor, Tensor]) -> Sequence[Tensor]:
        """[.., D] -> queries [.., H, d], keys and values [.., K, d]; the first two are turned."""
        read = layer.qkv(rms_norm(x, layer.before, self.eps))
        heads = read.unflatten(-1, (-1, self.d))                                     # H + 2 K of d
        qk, v = heads.split([self.H + self.K, self.K], -2)
        if layer.heads is not None:
            qk = rms_norm(qk, layer.heads, self.eps)
        cos, sin = turn
        qk = qk * cos + qk.roll(self.d // 2, -1) * sin
        q, k = qk.split([self.H, self.K], -2)
        return q, k, v

    def normed(self, x: Tensor) -> Tensor:
        """Hidden states [.., D] as the output layer reads them."""
        return rms_norm(x, self.body.norm.weight, self.eps)


def look(q: Tensor, prompt: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor],
         padding: Tensor, later: Tensor | None = None) -> Tensor:
    """Attention of replies to their prompt and to themselves, [S, K, G, g, L, d].

    q        [S, K, G, g, L, d] queries of G replies, L tokens each
    prompt   keys and values of each state's prompt, two of [S, K, P, d]
    own      keys and values of each reply, two of [S, K, G, t, d]
    padding  [S, 1, 1, P] 0, or -inf where a prompt has no token
    later    [L, t] 0, or -inf where a token of the reply comes later; None: none does
    """
    (prompt_keys, prompt_values), (keys, values) = prompt, own
    q = q * q.shape[-1] ** -0.5
    # All replies to a state look at its prompt in one product, each at its own words.
    before = q.flatten(2, 4) @ prompt_keys.mT + padding                    # [S, K, G g L, P]
    since = (q.flatten(3, 4) @ keys.mT).unflatten(3, q.shape[3:5])         # [S, K, G, g, L, t]
    if later is not None:
        since = since + later
    scores = torch.cat([before.view(*since.shape[:-1], -1), since], -1)
    # The mask made the scores fp32; what is kept may be in 16 bits.
    shares = scores.softmax(-1).to(values.dtype)
    p, p_own = shares.split([before.shape[-1], since.shape[-1]], -1)
    seen = (p.flatten(2, 4) @ prompt_values).view_as(q)
    return seen + (p_own.flatten(3, 4) @ values).view_as(q)
