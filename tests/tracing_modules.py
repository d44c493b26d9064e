"""Modules as MLX's users write them, to be traced."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class Masked(nn.Module):
    """A layer that takes a causal mask."""

    def __init__(self, layer, *, memory=False):
        super().__init__()
        self.layer, self.memory = layer, memory

    def __call__(self, x):
        mask = nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1])
        if isinstance(self.layer, nn.MultiHeadAttention):
            return self.layer(x, x, x, mask)
        if isinstance(self.layer, nn.Transformer):
            return self.layer(x, x, mask, mask, None)
        return self.layer(x, x, mask, None) if self.memory else self.layer(x, mask)


class Llama(nn.Module):
    """A small language model as the MLX ecosystem writes them."""

    def __init__(self, dims=32, heads=4, groups=2, tokens=20):
        super().__init__()
        self.heads, self.groups = heads, groups
        self.embed = nn.Embedding(tokens, dims)
        self.norm, self.after = nn.RMSNorm(dims), nn.RMSNorm(dims)
        self.q = nn.Linear(dims, dims, bias=False)
        self.k, self.v = (nn.Linear(dims, dims // heads * groups, bias=False) for _ in range(2))
        self.o = nn.Linear(dims, dims, bias=False)
        self.gate, self.up = (nn.Linear(dims, 64, bias=False) for _ in range(2))
        self.down = nn.Linear(64, dims, bias=False)
        self.rope = nn.RoPE(dims // heads)

    def attend(self, x):
        rows, time, _ = x.shape
        q, k, v = (
            layer(x).reshape(rows, time, count, -1).transpose(0, 2, 1, 3)
            for layer, count in ((self.q, self.heads), (self.k, self.groups), (self.v, self.groups))
        )
        q, k = self.rope(q), self.rope(k)
        x = mx.fast.scaled_dot_product_attention(q, k, v, scale=8**-0.5, mask="causal")
        return self.o(x.transpose(0, 2, 1, 3).reshape(rows, time, -1))

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.attend(self.norm(x))
        y = self.after(x)
        x = x + self.down(nn.silu(self.gate(y)) * self.up(y))
        return self.embed.as_linear(x)


class ResNet(nn.Module):
    """Two residual blocks, the second with a stride and a projection."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.side = nn.Conv2d(8, 16, 1, 2)
        self.norms = [nn.BatchNorm(c) for c in (8, 8, 16, 16)]
        self.head = nn.Linear(16, 3)

    def __call__(self, x):
        x = nn.relu(self.stem(x))
        y = self.norms[1](self.b(nn.leaky_relu(self.norms[0](self.a(x)))))
        x = nn.relu(x + y)
        y = self.norms[3](self.d(nn.silu(self.norms[2](self.c(x)))))
        return self.head(nn.relu(self.side(x) + y).mean(axis=(1, 2)))


class Attended(nn.Module):
    """ALiBi adds its slopes to attention scores."""

    def __init__(self):
        super().__init__()
        self.bias = nn.ALiBi()

    def __call__(self, scores):
        return self.bias(scores)
