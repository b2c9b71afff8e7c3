"""DeepSeek-V4, written in primitives. Section numbers are those of the model's specification.

Shapes: B sequences of S tokens; D hidden, N streams, H heads of width c, r rope values, m the
compression ratio of a layer. Numerics `float` is the mathematical function in float32; `released`
adds the roundings the model was trained with: section 7, its table of what is rounded where being
the methods at the end of the class.
"""

from __future__ import annotations

from dataclasses import dataclass

from firstlight.frontend.config import LayerSpec, ModelConfig, rope_frequencies
from firstlight.frontend.tracer import Scope, Tracer
from firstlight.ir import dims
from firstlight.ir.array import Array, concat, size_of, trace
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, StateType, TensorType
from firstlight.runtime.errors import FirstlightError

NUMERICS = ("float", "released")


def build(config: ModelConfig, weight_types: dict[str, TensorType],
          numerics: str = "float") -> Module:
    """The module of a model: entries `score` (logits of every token) and `prefill` (of one).

    score(tokens[B, S], pos[B], slot[B], weights..., states...) -> logits[B, S, V], states...
    prefill(..., last[B], ...) -> logits[B, 1, V] of token last[b] of this call, states...
    """
    if numerics not in NUMERICS:
        raise FirstlightError("F106", f"there are no numerics '{numerics}'", where="numerics",
                              why=f"a model is built with one of {', '.join(NUMERICS)}",
                              try_="numerics 'float', the mathematical function")
    tracer = Tracer(weight_types)
    model = DeepseekV4(config, tracer, numerics == "released")
    tracer.entry("score", model.score, ("tokens", "pos", "slot"))
    tracer.entry("prefill", model.prefill, ("tokens", "pos", "slot", "last"))
    return tracer.module


@dataclass(frozen=True)
class DeepseekV4:
    """The model definition; methods follow the sections of the specification."""

    config: ModelConfig
    tracer: Tracer
    released: bool

    # -- entries --------------------------------------------------------------------------------

    def score(self, m: Scope) -> Array:
        """Logits of every token of the call."""
        x = self.tower(m)
        with m.at("head"):
            return self.tracer.call(m, "head", self.head, "", x=x)

    def prefill(self, m: Scope) -> Array:
        """Logits of the token `last`."""
        x, c = self.tower(m), self.config
        batch, tokens, n, d = x.shape[0], x.shape[1], c.hc_mult, c.hidden_size
        with m.at("head"):
            last = m.inputs["last"].reshape(batch, 1)
            x = x.reshape(batch, tokens, n * d).emit("gather_rows", last).reshape(batch, 1, n, d)
            return self.tracer.call(m, "head_last", self.head, "", x=x)

    def tower(self, m: Scope) -> Array:
        """4.1: N equal streams through all layers."""
        tokens, c = m.inputs["tokens"], self.config
        with m.at("embed"):
            h = self.bf16(m.weight("embed.weight").emit("embedding", tokens))
            x = h.insert(2).broadcast(*tokens.shape, c.hc_mult, c.hidden_size)
        at = {"pos": m.inputs["pos"], "slot": m.inputs["slot"]}
        for i, layer in enumerate(c.layers):
            ratio = f"_{layer.ratio}" if layer.ratio else ""

            def attn(m: Scope, layer: LayerSpec = layer, **inputs: Array) -> Array:
                return self.attn_sublayer(m, layer, **inputs)

            x = self.tracer.call(m, f"attn_{layer.kind}{ratio}", attn, f"layers.{i}.", x=x, **at)
            if layer.hash_routed:
                x = self.tracer.call(m, "ffn_hash", self.ffn_sublayer, f"layers.{i}.", x=x,
                                     tokens=tokens)
            else:
                x = self.tracer.call(m, "ffn", self.ffn_sublayer, f"layers.{i}.", x=x)
        return x

    # -- sublayers ------------------------------------------------------------------------------

    def attn_sublayer(self, m: Scope, layer: LayerSpec, *, x: Array, pos: Array,
                      slot: Array) -> Array:
        """4.1: streams -> attention -> streams."""
        u, post, comb = self.hyper(m, "attn", x)
        with m.scope("attn"):
            y = self.attention(m, layer, u, pos, slot)
        with m.at("hc_attn"):
            return self.mix(x, y, post, comb)

    def ffn_sublayer(self, m: Scope, *, x: Array, tokens: Array | None = None) -> Array:
        """4.1: streams -> experts -> streams."""
        u, post, comb = self.hyper(m, "ffn", x)
        with m.scope("ffn"):
            y = self.experts(m, u, *self.router(m, u, tokens))
        with m.at("hc_ffn"):
            return self.mix(x, y, post, comb)

    # -- 4.2 hyper-connections ------------------------------------------------------------------

    def hyper(self, m: Scope, part: str, x: Array) -> tuple[Array, Array, Array]:
        """Coefficients from the streams, and the normed input of the sublayer."""
        c, n = self.config, self.config.hc_mult
        fn, base, scale = (m.weight(f"hc_{part}_{w}") for w in ("fn", "base", "scale"))

        def coefficients(index: int, start: int, stop: int) -> Array:
            return (z.take(-1, start, stop) * scale.take(0, index, index + 1)
                    + base.take(0, start, stop))

        with m.at(f"hc_{part}"):
            flat = x.reshape(*x.shape[:2], n * c.hidden_size)
            z = rms_norm(flat, None, c.rms_norm_eps).emit("linear", fn)
            pre = coefficients(0, 0, n).emit("sigmoid") + c.hc_eps
            post = coefficients(1, n, 2 * n).emit("sigmoid") * 2.0
            comb = coefficients(2, 2 * n, (2 + n) * n).reshape(*x.shape[:2], n, n)
            comb = comb.softmax(-1) + c.hc_eps
            comb = comb / (comb.sum(-2, keepdims=True) + c.hc_eps)
            comb = self.sinkhorn(m, comb)
            u = self.bf16((pre.insert(-1) * x).sum(-2))
        with m.at(f"{part}_norm"):
            u = self.norm(u, m.weight(f"{part}_norm.weight"))
        return u, post, comb

    def sinkhorn(self, m: Scope, comb: Array) -> Array:
        """(rows, columns) normalised hc_sinkhorn_iters - 1 times."""
        eps = self.config.hc_eps

        def normalise(comb: Array) -> Array:
            comb = comb / (comb.sum(-1, keepdims=True) + eps)
            return comb / (comb.sum(-2, keepdims=True) + eps)

        builder = Builder("sinkhorn")
        builder.loc = "sinkhorn"
        body = trace("sinkhorn", normalise, (comb.type,), builder)
        m.builder.module = m.builder.module.with_function(body)
        return comb.emit("repeat", callee="sinkhorn", count=self.config.hc_sinkhorn_iters - 1)

    def mix(self, x: Array, y: Array, post: Array, comb: Array) -> Array:
        """X_k = post_k y + sum_j comb[j, k] X_j."""
        out = post.insert(-1) * y.insert(-2) + comb.transpose(0, 1, 3, 2).matmul(x)
        return self.bf16(out)

    # -- 4.5, 4.6, 4.9, 4.10 attention ----------------------------------------------------------

    def attention(self, m: Scope, layer: LayerSpec, x: Array, pos: Array, slot: Array) -> Array:
        """One sublayer: window keys, compressed entries, attention, output projection."""
        c = self.config
        batch, tokens = x.shape[:2]
        heads, width, groups = c.num_attention_heads, c.head_dim, c.o_groups
        positions = pos.reshape(batch, 1) + m.iota((1, tokens), 1)
        f = rope_frequencies(c, compressed=layer.kind != "window")
        freqs = m.constant(tuple(float(v) for v in f), (len(f),))

        qr = self.norm(self.linear(m, x, "wq_a"), m.weight("q_norm.weight"))
        q = self.linear(m, qr, "wq_b").reshape(batch, tokens, heads, width)
        q = self.rope(self.norm(q), positions, freqs)
        kv = self.norm(self.linear(m, x, "wkv"), m.weight("kv_norm.weight"))
        kv = self.round_entry(self.rope(kv, positions, freqs))

        entries = index = None
        if layer.kind != "window":
            with m.scope("compressor"):
                entries = self.compress(m, layer, x, pos, slot, freqs, width, "keys")
        if layer.kind == "csa":
            with m.scope("indexer"):
                index = self.index(m, layer, x, qr, pos, slot, positions, freqs)
        o = self.attend(m, q, kv, freqs, pos, slot, positions, entries, index)
        o = o.reshape(batch, tokens, groups, heads * width // groups)
        with m.at("wo_a"):
            o = self.bf16(o.emit("group_linear", m.weight("wo_a.weight")))
        return self.linear(m, o.reshape(batch, tokens, groups * c.o_lora_rank), "wo_b")

    def attend(self, m: Scope, q: Array, kv: Array, freqs: Array, pos: Array, slot: Array,
               positions: Array, entries: Array | None, index: Array | None) -> Array:
        """4.9: one softmax over window and entries with a sink in the denominator."""
        c = self.config
        batch, tokens, heads, width = q.shape
        scale, rows = c.head_dim ** -0.5, c.sliding_window
        ring = m.state("window", StateType("ring", c.head_dim, rows))
        old = ring.emit("ring_read", slot, pos)
        m.update("window", ring.emit("ring_write", kv, slot, pos))
        window = concat([old, kv], 1)
        length = dims.add(tokens, rows)
        row, query = m.iota((1, 1, length), 2), m.iota((1, tokens, 1), 1)
        # row j holds position pos - rows + j; a query sees itself and the rows - 1 before it
        recent = (row > query) & (row <= query + rows) & (row >= rows - pos.reshape(batch, 1, 1))
        sources = [(window.reshape(batch, 1, length, width), recent)]
        if entries is not None and index is not None:
            every = entries.emit("entries_read", slot)
            sources.append((every.emit("gather_rows", index), index >= 0))
        elif entries is not None:
            capacity = entries.state.capacity
            count = ((positions + 1) // entries.state.ratio).reshape(batch, tokens, 1)
            every = entries.emit("entries_read", slot).reshape(batch, 1, capacity, width)
            sources.append((every, m.iota((1, 1, capacity), 2) < count))
        logits = [seen.insert(2).where(q.matmul(keys, transpose=True) * scale, -float("inf"))
                  for keys, seen in sources]
        sink = m.weight("attn_sink").reshape(1, 1, heads, 1)
        top = sink
        for part in logits:
            top = part.emit("reduce_max", axis=3, keepdims=True).maximum(top)
        total = (sink - top).emit("exp")
        out: Array | None = None
        for part, (keys, _) in zip(logits, sources, strict=True):
            weights = (part - top).emit("exp")
            total = weights.sum(3, keepdims=True) + total
            mixed = self.bf16(weights).matmul(keys)          # the sum below is of float32 weights
            out = mixed if out is None else out + mixed
        assert out is not None
        return self.rope(self.bf16(out / total), positions, freqs, inverse=True)

    # -- 4.7 compressors ------------------------------------------------------------------------

    def compress(self, m: Scope, layer: LayerSpec, x: Array, pos: Array, slot: Array,
                 freqs: Array, width: int, name: str) -> Array:
        """Append the entries of the blocks that this call completes; returns the entries."""
        ratio, overlap = layer.ratio, layer.kind == "csa"
        batch, tokens = x.shape[:2]
        wide, rows = (2 * width, 2 * ratio) if overlap else (width, ratio)
        partial = m.state("partial", StateType("partial", 2 * wide, rows, ratio))
        entries = m.state("entries", StateType("entries", width, ratio=ratio))
        value, gate = (self.exact_linear(m, x, w) for w in ("wkv", "wgate"))

        positions = pos.reshape(batch, 1) + m.iota((1, tokens), 1)
        place = m.weight("ape").emit("embedding", positions % ratio)
        row = concat([value, gate + place], -1)
        old = partial.emit("ring_read", slot, pos)
        m.update("partial", partial.emit("ring_write", row, slot, pos))
        known = concat([old, row], 1)                        # rows of positions pos - rows ...
        blocks = dims.ceildiv(tokens, ratio)
        done = pos // ratio                                  # blocks complete before this call
        number = done.reshape(batch, 1) + m.iota((1, blocks), 1)
        start = number * ratio - pos.reshape(batch, 1) + rows
        at = start.reshape(batch, blocks, 1) + m.iota((1, 1, ratio), 2)
        current = known.emit("gather_rows", at)
        value, gate = current.take(-1, 0, wide), current.take(-1, wide, 2 * wide)
        if overlap:
            before = known.emit("gather_rows", at - ratio)
            first = number.reshape(batch, blocks, 1, 1) < 1  # block 0 has no block before it
            old_gate = first.where(-float("inf"), before.take(-1, 2 * width, 3 * width))
            value = concat([before.take(-1, 0, width), value.take(-1, width, 2 * width)], 2)
            gate = concat([old_gate, gate.take(-1, width, 2 * width)], 2)
        pooled = self.bf16((gate.softmax(2) * value).sum(2))
        normed = self.norm(pooled, m.weight("norm.weight"))
        entry = self.rope(normed, number * ratio, freqs)
        entry = self.round_entry(entry) if name == "keys" else self.round_index(entry)
        count = (pos + size_of(m.builder, tokens)) // ratio - done
        return m.update("entries", entries.emit("entries_append", entry, slot, done, count))

    # -- 4.8 indexer ----------------------------------------------------------------------------

    def index(self, m: Scope, layer: LayerSpec, x: Array, qr: Array, pos: Array, slot: Array,
              positions: Array, freqs: Array) -> Array:
        """Places [B, S, index_topk] of the entries each token attends to, -1 fills up."""
        c = self.config
        batch, tokens = x.shape[:2]
        heads, width = c.index_n_heads, c.index_head_dim
        with m.scope("compressor"):
            keys = self.compress(m, layer, x, pos, slot, freqs, width, "index")
        q = self.linear(m, qr, "wq_b").reshape(batch, tokens, heads, width)
        q = self.round_index(self.rope(q, positions, freqs))
        weights = self.linear(m, x, "weights_proj") * heads ** -0.5
        capacity = keys.state.capacity
        entries = keys.emit("entries_read", slot).reshape(batch, 1, capacity, width)
        hits = (q.matmul(entries, transpose=True) * width ** -0.5).emit("relu")
        score = (hits * weights.reshape(batch, tokens, heads, 1)).sum(2)
        visible = (m.iota((1, 1, capacity), 2)
                   < ((positions + 1) // layer.ratio).reshape(batch, tokens, 1))
        return visible.where(score, -float("inf")).emit("top_k", k=c.index_topk)

    # -- 4.11 experts ---------------------------------------------------------------------------

    def router(self, m: Scope, x: Array, tokens: Array | None) -> tuple[Array, Array]:
        """Chosen experts [B, S, A] and their weights."""
        c = self.config
        scores = self.exact_linear(m, x, "gate").emit("softplus").emit("sqrt")
        if tokens is not None:
            index = m.weight("gate.tid2eid").emit("embedding", tokens)
        else:
            index = (scores + m.weight("gate.bias")).emit("top_k", k=c.num_experts_per_tok)
        chosen = scores.emit("take_along", index)
        # scores of hash-chosen experts may all underflow: the tiny term keeps 0 / 0 away
        total = chosen.sum(-1, keepdims=True) + 1e-20
        return index, chosen / total * c.routed_scaling_factor

    def experts(self, m: Scope, x: Array, index: Array, weights: Array) -> Array:
        """Weighted sum of the chosen experts, and the shared one."""
        with m.scope("experts"):
            f = self.swiglu(*(self.expert_linear(m, x, w, index) for w in ("w1", "w3")))
            if self.released:  # the reference weights what goes into w2, not what comes out
                f = self.bf16(f * weights.insert(-1))
                routed = self.expert_linear(m, f, "w2", index).sum(-2)
            else:
                routed = (self.expert_linear(m, f, "w2", index) * weights.insert(-1)).sum(-2)
        with m.scope("shared_experts"):
            shared = self.swiglu(self.linear(m, x, "w1"), self.linear(m, x, "w3"))
            return self.bf16(routed + self.linear(m, self.bf16(shared), "w2"))

    def swiglu(self, gate: Array, up: Array) -> Array:
        """silu(min(gate, limit)) * clamp(up, -limit, limit)."""
        limit = self.config.swiglu_limit
        gate, up = gate.minimum(limit), up.minimum(limit).maximum(-limit)
        return gate * gate.emit("sigmoid") * up

    # -- 4.12 head ------------------------------------------------------------------------------

    def head(self, m: Scope, *, x: Array) -> Array:
        """Collapse the streams, norm, vocabulary projection: logits [B, S, V]."""
        c = self.config
        fn, scale, base = (m.weight(f"hc_head_{w}") for w in ("fn", "scale", "base"))
        with m.at("hc_head"):
            flat = x.reshape(*x.shape[:2], c.hc_mult * c.hidden_size)
            z = rms_norm(flat, None, c.rms_norm_eps).emit("linear", fn)
            pre = (z * scale + base).emit("sigmoid") + c.hc_eps
            h = self.bf16((pre.insert(-1) * x).sum(-2))
        with m.at("norm"):
            h = self.norm(h, m.weight("norm.weight"))
        return self.exact_linear(m, h, "head")

    # -- 7 released numerics --------------------------------------------------------------------

    def linear(self, m: Scope, x: Array, name: str) -> Array:
        """x W^T: the input of a quantised matrix is rounded, the output bf16."""
        weight = m.weight(f"{name}.weight")
        with m.at(name):
            return self.bf16(self.round_input(x, weight).emit("linear", weight))

    def expert_linear(self, m: Scope, x: Array, name: str, index: Array) -> Array:
        """The same with one matrix per chosen expert."""
        weight = m.weight(f"{name}.weight")
        with m.at(name):
            return self.bf16(self.round_input(x, weight).emit("expert_linear", weight, index))

    def exact_linear(self, m: Scope, x: Array, name: str) -> Array:
        """x W^T in float32 whatever the numerics: compressors, router, vocabulary head."""
        weight = m.weight(f"{name}.weight")
        with m.at(name):
            return x.emit("linear", weight)

    def norm(self, x: Array, weight: Array | None = None) -> Array:
        """RMSNorm in float32, its result bf16."""
        return self.bf16(rms_norm(x, weight, self.config.rms_norm_eps))

    def rope(self, x: Array, positions: Array, freqs: Array, inverse: bool = False) -> Array:
        """Rotary embedding in float32, its result bf16."""
        return self.bf16(rope(x, positions, freqs, inverse))

    def round_input(self, x: Array, weight: Array) -> Array:
        """What a quantised matrix is multiplied with: e4m3 in blocks of 128 of the inner axis."""
        assert isinstance(weight.type, TensorType)
        if not self.released or weight.type.codec not in (BLOCK_FP8, GROUP_FP4):
            return x
        return x.emit("round_e4m3", block=128)

    def round_entry(self, kv: Array) -> Array:
        """Window and compressed keys: e4m3 in blocks of 64; the rope values stay bf16."""
        width = self.config.head_dim
        kept = width - self.config.qk_rope_head_dim
        if not self.released or not kept:
            return kv
        rounded = kv.take(-1, 0, kept).emit("round_e4m3", block=64)
        return concat([rounded, kv.take(-1, kept, width)], -1)

    def round_index(self, x: Array) -> Array:
        """Index queries and keys: Hadamard rotation, then e2m1 in blocks of 32."""
        if not self.released:
            return x
        return self.bf16(x.emit("hadamard")).emit("round_e2m1", block=32)

    def bf16(self, x: Array) -> Array:
        """Streams and activations between ops."""
        return x.emit("round_bf16") if self.released else x


# -- 4.3, 4.4 ------------------------------------------------------------------------------------

def rms_norm(x: Array, w: Array | None, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) [* w]."""
    y = x * ((x * x).mean(-1, keepdims=True) + eps).emit("rsqrt")
    return y if w is None else y * w


def rope(x: Array, positions: Array, freqs: Array, inverse: bool = False) -> Array:
    """Rotate the last 2 * len(freqs) values of x in adjacent pairs."""
    half, width = freqs.dim(0), x.dim(-1)
    lead = x.shape[:-1]
    angle = positions.cast("f32").reshape(*positions.shape, *[1] * (len(lead) - 1)) * freqs
    cos, sin = angle.emit("cos"), angle.emit("sin")
    if inverse:
        sin = -sin
    kept = width - 2 * half
    pairs = x.take(-1, kept, width).reshape(*lead, half, 2)
    a, b = (pairs.take(-1, i, i + 1).reshape(*lead, half) for i in (0, 1))
    turned = concat([(a * cos - b * sin).insert(-1), (b * cos + a * sin).insert(-1)], -1)
    turned = turned.reshape(*lead, 2 * half)
    return concat([x.take(-1, 0, kept), turned], -1) if kept else turned
