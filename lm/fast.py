"""A fast forward pass for Llama, Qwen2 and Qwen3: replies that share a prompt, token by token.

    prompts --one pass over all--> keys and values of each state's prompt       `Lanes(...)`
    a token of each lane --step--> logits of the next one

transformers has one cache a reply, in which the prompt is copied, and some hundred small
operations a layer.  Here a state's prompt is kept once, for all lanes that answer it, and a layer
is what the textbook says it is.  The weights are the model's own: linear layers that are trained
whole and read the same input are multiplied as one; adapters and 4-bit layers are called.
What is computed is the same; `supports` says for which models.  Replies that are known are read by
the same layers in said.py.  Knows tokens alone.
Try it:  python -m experiments.bench --speed        sampling against plain transformers
Exercise: let `look` forget `before`, so that a lane sees its own words alone, and speak."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
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
# Prompts are padded to a multiple: oneDNN compiles a product in bf16 anew for each new shape,
# which takes half a millisecond.
ROUND = 16
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


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [.., n] at a root mean square of 1, then times the weight, [n] or [heads, n]."""
    y = x.float()
    y = y * (y.square().mean(-1, keepdim=True) + eps).rsqrt()
    return weight * y.to(x.dtype)


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
    p, p_own = scores.softmax(-1).split([before.shape[-1], since.shape[-1]], -1)
    seen = (p.flatten(2, 4) @ prompt_values).view_as(q)
    return seen + (p_own.flatten(3, 4) @ values).view_as(q)


# ------------------------------------------------------------------------------ while it is spoken
def best_kept(device: str, weights: torch.dtype) -> torch.dtype:
    """How lanes keep keys and values: on a CPU in fp32, whose products need no compilation."""
    if device == "cpu":
        return torch.float32
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weights


class Lanes:
    """Replies that are being spoken, G to each of S states; row s G + j is lane j of state s."""

    def __init__(self, model, prompts: Sequence[list[int]], lanes: int, room: int,
                 kept: torch.dtype | None = None):
        """
        room  tokens of the longest reply
        kept  how keys and values are kept; default: as is best on the model's device
        """
        self.stack = Stack(model)
        self.device = self.stack.body.norm.weight.device
        self.kept = kept or best_kept(self.device.type, self.stack.body.dtype)
        self.G = lanes
        self.said = 0
        lengths = [len(p) - 1 for p in prompts]
        length = torch.tensor(lengths)
        P = max(1, -(-max(lengths) // ROUND)) * ROUND
        self.cos, self.sin = self.stack.angles(P + room)                             # [P + R, d]
        self.prefix: list[tuple[Tensor, Tensor]] = []   # a layer: [S, K, P, d], twice
        self._read(prompts, P)
        padding = torch.arange(P) >= length[:, None]
        # Added to what is looked at: -inf where there is no token.       [S, 1, 1, P]
        self.bias = torch.zeros(padding.shape).masked_fill(padding, -inf)[:, None, None]
        self.bias = self.bias.to(self.device)
        self.length = length.to(self.device)                                         # [S]
        shape = (len(prompts), self.stack.K, lanes, room, self.stack.d)
        self.keys = [self._empty(shape) for _ in self.prefix]      # a layer: [S, K, G, R, d]
        self.values = [self._empty(shape) for _ in self.prefix]

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.kept, device=self.device)

    def _read(self, prompts: Sequence[list[int]], P: int) -> None:
        """Keys and values of all but the last token of each prompt.

        Padded on the right, where causality keeps the padding out."""
        rows = [p[:-1] + [0] * (P + 1 - len(p)) for p in prompts]
        ids = torch.tensor(rows, device=self.device)                                 # [S, P]
        self.stack(ids, (self.cos[:P, None], self.sin[:P, None]), self._attend_within)

    def _attend_within(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """q [S, P, H, d], k and v [S, P, K, d] -> [S, P, H d]."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        self.prefix.append((k.to(self.kept).contiguous(), v.to(self.kept).contiguous()))
        if number == len(self.stack.layers) - 1:
            return None
        seen = F.scaled_dot_product_attention(q, k, v.to(k.dtype), is_causal=True, enable_gqa=True)
        return seen.transpose(1, 2).flatten(2)

    def step(self, token: Tensor) -> Tensor:
        """What was said last in each lane, [S G] -> the logits of what comes next, [S G, V]."""
        position = self.length + self.said
        turn = self.cos[position][:, None, None], self.sin[position][:, None, None]  # [S, 1, 1, d]
        x = self.stack(token.view(-1, self.G), turn, self._attend)                   # [S, G, D]
        self.said += 1
        return self.stack.head(self.stack.normed(x.flatten(0, 1)))

    def _attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [S, G, H, d], k and v [S, G, K, d] -> [S, G, H d]."""
        t = self.said + 1
        self.keys[number][:, :, :, self.said] = k.transpose(1, 2)
        self.values[number][:, :, :, self.said] = v.transpose(1, 2)
        keys = self.keys[number][:, :, :, :t]                              # [S, K, G, t, d]
        values = self.values[number][:, :, :, :t]
        S, K, G, _, d = keys.shape
        q = q.view(S, G, K, -1, 1, d).transpose(1, 2).to(keys.dtype)       # [S, K, G, g, 1, d]
        with torch.autocast(self.device.type, enabled=False):
            seen = look(q, self.prefix[number], (keys, values), self.bias)
        return seen.transpose(1, 2).reshape(S, G, -1)

    def keep(self, live: Sequence[int]) -> list[int]:
        """Drops lanes; returns the rows that are left, in their new order.

        live  rows that must stay: every state keeps as many lanes as the fullest needs, and a
              state without any goes.  Nothing is dropped that would leave more than half.
        """
        wanted: dict[int, list[int]] = {}
        for row in live:
            wanted.setdefault(row // self.G, []).append(row % self.G)
        most = max(map(len, wanted.values()))
        if 2 * most * len(wanted) > len(self.length) * self.G:
            return list(range(len(self.length) * self.G))
        rows = []
        for state, lanes in wanted.items():
            spare = [lane for lane in range(self.G) if lane not in lanes]
            rows += [state * self.G + lane for lane in (lanes + spare)[:most]]
        states = torch.tensor(list(wanted), device=self.device)                      # [S']
        at = torch.tensor(rows, device=self.device).view(-1, most) % self.G          # [S', G']
        # A layer after the other, so that old and new lie side by side for one at a time.
        for number, (k, v) in enumerate(self.prefix):
            if len(wanted) < len(self.length):
                self.prefix[number] = k[states], v[states]
            self.keys[number] = _picked(self.keys[number], states, at)
            self.values[number] = _picked(self.values[number], states, at)
        self.bias = self.bias[states]
        self.length = self.length[states]
        self.G = most
        return rows


def _picked(x: Tensor, states: Tensor, lanes: Tensor) -> Tensor:
    """[S, K, G, R, d] -> [S', K, G', R, d], of each state its lanes [S', G']."""
    return x.transpose(1, 2)[states[:, None], lanes].transpose(1, 2).contiguous()
