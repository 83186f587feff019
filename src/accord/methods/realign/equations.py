"""RealignDiff's attention modulation as pure tensor functions, numbered as in docs of METHODS, section 1.2.

Letters in shapes: ... batch and heads, L queries, S keys, d channels of a head, N segments.

    (1) s'_ij = s_ij + R_ij a_i (max_j s_ij - s_ij) - (1 - R_ij) a_i (s_ij - min_j s_ij)
    (2) softmax(s') = softmax((1 - a_i) s_ij + a_i rho_i R_ij),  rho_i = max_j s_ij - min_j s_ij
    (3) q~_i = [(1 - a_i) q_i ; sqrt(d) a_i rho_i m_1(i) ; ... ; sqrt(d) a_i rho_i m_N(i)],
        k~_j = [k_j ; e_1(j) ; ... ; e_N(j)],   R_ij = sum_n m_n(i) e_n(j)
    (3') joint attention, whose keys are blocks b (text, image): (1) in each block by itself, then one softmax over all,
        q~_i = [(1 - a_bi) q_i ; sqrt(d) a_bi rho_bi m(i) ; sqrt(d) a_bi min_bi ]_b,  k~_j = [k_j ; e(j) ; 1] in j's own
        block, 0 in others
    (4) a_i = clip(g_i w tau omega_n, 0, 1), g_i = 1 - share of pixels in the segment of i, tau = (t / 1000)^power
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

HALF = (torch.float16, torch.bfloat16)
ROOM = 2**26  # logits at once on a GPU: 128 MiB in half precision


def modulated_logits(logits: torch.Tensor, related: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Equation (1), every logit materialised: the reference of the tests and of `bench speed`.

    Args:
        logits: scaled logits s, [..., L, S].
        related: R in {0, 1}, broadcastable to logits.
        alpha: [..., L, 1].
    """
    top, bottom = logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True)
    return logits + related * alpha * (top - logits) - (1 - related) * alpha * (logits - bottom)


def logit_range(
    query: torch.Tensor, key: torch.Tensor, scale: float, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest scaled logit of each query, [..., L, 1] each; never more than [..., chunk, S] at once.

    Args:
        chunk: queries at once; if None 128, and on a GPU, where many small kernels would wait for each other, as many
            as ROOM logits allow.
    """
    on_gpu = query.device.type != "cpu"
    if chunk is None:
        chunk = max(128, ROOM // max(1, query.shape[:-2].numel() * key.shape[-2])) if on_gpu else 128
    shift = None
    if query.dtype in HALF:
        # in half precision too, as in float32 a GPU takes several times as long. The keys less their mean: a logit that
        # all keys share does not change which is smallest, and would take the digits of those by which they differ
        mean = key.float().mean(-2, keepdim=True)
        shift = (query.float() @ mean.transpose(-1, -2)) * scale
        query, key, scale = query * scale, (key - mean).to(key.dtype), 1.0
    low, high = [], []
    transposed = key.transpose(-1, -2)
    for part in query.split(chunk, dim=-2):
        logits = part @ transposed
        # on a CPU amin and amax are four times as fast as aminmax
        pair = (
            logits.aminmax(dim=-1, keepdim=True)
            if on_gpu
            else (logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True))
        )
        low.append(pair[0])
        high.append(pair[1])
    bottom, top = torch.cat(low, -2) * scale, torch.cat(high, -2) * scale
    return (bottom, top) if shift is None else (bottom.float() + shift, top.float() + shift)


def augment(
    query: torch.Tensor,
    key: torch.Tensor,
    alpha: torch.Tensor,
    pixel_segments: torch.Tensor,
    key_segments: torch.Tensor,
    key_bias: torch.Tensor | None = None,
    exempt: torch.Tensor | None = None,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation (3): queries and keys whose plain scaled dot product is the modulated logit, up to a constant in j.

    Args:
        query: [B, heads, L, d].
        key: [B, heads, S, d].
        alpha: [B, L], in 0..1.
        pixel_segments: m, [B, L, N], one-hot or zero.
        key_segments: e, [B, S, N].
        key_bias: added to the logits of segment n's keys for the pixels of segment n, [B, N] (log omega), or None.
        exempt: keys whose logits are left as they are, [B, S] in {0, 1}, or None. With exempt keys the constant
            alpha_i min_i no longer drops out of the softmax for all keys alike; it rides on two more blocks of
            channels, so the form stays exact.

    Returns:
        q~ [B, heads, L, d'] and k~ [B, heads, S, d'], to be used with the scale 1/sqrt(d) of the original d.
    """
    d, heads = query.shape[-1], query.shape[1]
    low, high = logit_range(query, key, d**-0.5, chunk)
    # sqrt(d) is on the queries' side; in half precision, where that could overflow, on the keys'
    on_query, on_key = (1.0, d**0.5) if query.dtype in HALF else (d**0.5, 1.0)
    a = alpha[:, None, :, None].to(query.dtype)
    m = pixel_segments[:, None].to(query.dtype)
    own = a * (high - low) * on_query * m  # [B, heads, L, N]
    if key_bias is not None:
        own = own + on_query * m * key_bias[:, None, None, :].to(query.dtype)
    own = own.to(query.dtype)
    e = key_segments[:, None].expand(-1, heads, -1, -1).to(key.dtype)
    if exempt is None:
        return torch.cat([(1 - a) * query, own], -1), torch.cat([key, e * on_key], -1)
    x = exempt[:, None, :, None].expand(-1, heads, -1, 1).to(key.dtype)
    q = torch.cat([(1 - a) * query, own, a * query, (-a * low * on_query).to(query.dtype)], -1)
    k = torch.cat([key, e * (1 - x) * on_key, x * key, x * on_key], -1)
    return q, k


@dataclass
class Block:
    """Keys of one kind in a joint attention.

    Attributes:
        keys: where they are among all keys.
        alpha: a, [B, L].
        segments: e, [B, S_b, N].
        bias: log omega, [B, N], or None.
        exempt: [B, S_b] in {0, 1}, or None.
    """

    keys: slice
    alpha: torch.Tensor
    segments: torch.Tensor
    bias: torch.Tensor | None = None
    exempt: torch.Tensor | None = None


def augment_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    pixel_segments: torch.Tensor,
    blocks: Sequence[Block],
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation (3'): as `augment`, exact, with the keys in blocks that are each modulated by themselves. An extension
    of this project.

    What drops out of one block's softmax, a_i min_i, differs between blocks, so it rides on a channel of its own.

    Args:
        query: of the image, [B, heads, L, d].
        key: [B, heads, S, d].
        pixel_segments: m, [B, L, N], one-hot or zero.
        blocks: in the keys' order; together all keys.

    Returns:
        q~ [B, heads, L, d'] and k~ [B, heads, S, d'], to be used with the scale 1/sqrt(d) of the original d.
    """
    d, heads, kind = query.shape[-1], query.shape[1], query.dtype
    on_query, on_key = (1.0, d**0.5) if kind in HALF else (d**0.5, 1.0)
    m = pixel_segments[:, None].to(kind)
    queries, keys = [], []
    for block in blocks:
        own = key[:, :, block.keys]
        low, high = logit_range(query, own, d**-0.5, chunk)
        a = block.alpha[:, None, :, None].to(kind)
        to_segment = a * (high - low) * m
        if block.bias is not None:
            to_segment = to_segment + m * block.bias[:, None, None, :].to(kind)
        e = block.segments[:, None].expand(-1, heads, -1, -1).to(kind)
        one = e.new_ones(*e.shape[:-1], 1)
        queries += [(1 - a) * query, (to_segment * on_query).to(kind), (a * low * on_query).to(kind)]
        if block.exempt is None:
            keys.append(torch.cat([own, e * on_key, one * on_key], -1))
        else:
            x = block.exempt[:, None, :, None].expand_as(one).to(kind)
            queries.append(a * query)
            keys.append(torch.cat([own, e * (1 - x) * on_key, (1 - x) * on_key, x * own], -1))
    widths = [part.shape[-1] for part in keys]
    padded = [F.pad(part, (sum(widths[:i]), sum(widths[i + 1 :]))) for i, part in enumerate(keys)]
    return torch.cat(queries, -1), torch.cat(padded, -2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Fused scaled-dot-product attention for augmented queries and keys, [B, heads, L, d].

    All three are padded with zeros to one width, a multiple of 8: kernels that never materialise L x S want that.
    """
    width = -(-query.shape[-1] // 8) * 8
    q, k, v = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=head_dim**-0.5)[..., : value.shape[-1]]


def segment_gain(pixel_segments: torch.Tensor) -> torch.Tensor:
    """g_i of (4): [B, L, N] -> [B, L]; 1 - share of pixels in i's segment, 0 for a pixel in no segment."""
    share = pixel_segments.mean(1, keepdim=True)
    return (pixel_segments * (1 - share)).sum(-1)


def time_gain(timestep: float, power: float = 5.0, top: float = 1000) -> float:
    """tau of (4): 1 at the timestep `top`."""
    return (timestep / top) ** power if top else 1.0


def modulation_strength(pixel_segments: torch.Tensor, omega: torch.Tensor, weight: float, tau: float) -> torch.Tensor:
    """alpha of (4), [B, L]: pixel_segments [B, L, N], omega [B, N]."""
    omega_of_pixel = (pixel_segments * omega[:, None]).sum(-1)
    return (segment_gain(pixel_segments) * omega_of_pixel * weight * tau).clamp(0, 1)
