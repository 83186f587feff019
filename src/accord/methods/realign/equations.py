"""RealignDiff's attention modulation as pure tensor functions, numbered as in docs of METHODS, section 1.2.

Letters in shapes: ... batch and heads, L queries, S keys, d channels of a head, N segments.

    (1) s'_ij = s_ij + R_ij a_i (max_j s_ij - s_ij) - (1 - R_ij) a_i (s_ij - min_j s_ij)
    (2) softmax(s') = softmax((1 - a_i) s_ij + a_i rho_i R_ij),  rho_i = max_j s_ij - min_j s_ij
    (3) q~_i = [(1 - a_i) q_i ; sqrt(d) a_i rho_i m_1(i) ; ... ; sqrt(d) a_i rho_i m_N(i)],
        k~_j = [k_j ; e_1(j) ; ... ; e_N(j)],   R_ij = sum_n m_n(i) e_n(j)
    (3') joint attention, whose keys are blocks b (text, image): (1) in each block by itself, then one softmax over all,
        out_i = sum_b softmax_b(z_bi) out_bi,  z_bi = log sum_{j in b} exp(q~_i k~_j / sqrt(d)) + a_bi min_bi,
        with q~, k~ and out_bi of (3) in each block. Where no fused kernel gives the log-sums, one attention of
        q~_i = [(1 - a_bi) q_i ; sqrt(d) a_bi rho_bi m(i) ; sqrt(d) a_bi min_bi ]_b,  k~_j = [k_j ; e(j) ; 1] in j's own
        block, 0 in others
    (4) a_i = clip(g_i w tau omega_n, 0, 1), g_i = 1 - share of pixels in the segment of i, tau = (t / 1000)^power
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch.nn import functional as F

HALF = (torch.float16, torch.bfloat16)
ROOM = 2**26  # logits at once on a GPU: 128 MiB in half precision
CACHED = 2**18  # logits at once for each thread of a CPU: 1 MiB in float32, about what stays in its cache
HIDDEN = -1000.0  # a mask that adds less hides the key: models write -10,000, their type's lowest number or -inf

# (query, key, value, scale, bias) -> attention [B, heads, L, d] and its log-sums [B, heads, L]
LogSumKernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, float, "torch.Tensor | None"], tuple[torch.Tensor, torch.Tensor]
]


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
    query: torch.Tensor,
    key: torch.Tensor,
    scale: float,
    chunk: int | None = None,
    hidden: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest scaled logit of each query, [..., L, 1] each; never more than [..., chunk, S] at once.

    Args:
        chunk: queries at once; if None as many as logits stay in the cache of a CPU, and on a GPU, where many small
            kernels would wait for each other, as many as ROOM logits allow.
        hidden: bool, broadcastable to [..., L, S]: keys that do not count. A query that sees none has a range of 0.
    """
    shift = None
    if query.dtype in HALF:
        # in half precision too, as in float32 a GPU takes several times as long. The keys less their mean: a logit that
        # all keys share does not change which is smallest, and would take the digits of those by which they differ
        mean = key.float().mean(-2, keepdim=True)
        shift = (query.float() @ mean.transpose(-1, -2)) * scale
        query, key, scale = query * scale, (key - mean).to(key.dtype), 1.0
    if query.device.type == "cpu" and hidden is None:
        bottom, top = _range_in_cache(query, key, chunk)
    else:
        if chunk is None:
            room = ROOM if query.device.type != "cpu" else 0
            chunk = max(128, room // max(1, query.shape[:-2].numel() * key.shape[-2]))
        transposed, parts = key.transpose(-1, -2), query.split(chunk, dim=-2)
        pairs = [_extremes(part @ transposed, rows) for part, rows in zip(parts, _rows(hidden, parts), strict=True)]
        bottom, top = (torch.cat(side, -2) for side in zip(*pairs, strict=True))
    bottom, top = bottom * scale, top * scale
    return (bottom, top) if shift is None else (bottom.float() + shift, top.float() + shift)


def _range_in_cache(
    query: torch.Tensor, key: torch.Tensor, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest product of each query, [..., L, 1], in pieces that a CPU reduces while in its cache.

    Of long layers a piece is some queries of one head, of short ones it is several heads.
    """
    shape, (length, d), count = query.shape[:-1], query.shape[-2:], key.shape[-2]
    room = CACHED * torch.get_num_threads()
    chunk = min(length, chunk or max(64, room // count))
    heads = max(1, room // (chunk * count))
    lows, highs = [], []
    keys = key.reshape(-1, count, d).transpose(1, 2).split(heads)
    for queries, transposed in zip(query.reshape(-1, length, d).split(heads), keys, strict=True):
        pairs = [_extremes(torch.bmm(part, transposed)) for part in queries.split(chunk, dim=1)]
        low, high = (torch.cat(side, 1) for side in zip(*pairs, strict=True))
        lows.append(low)
        highs.append(high)
    return torch.cat(lows).view(*shape, 1), torch.cat(highs).view(*shape, 1)


def _rows(mask: torch.Tensor | None, parts: Sequence[torch.Tensor]) -> Sequence[torch.Tensor | None]:
    """The rows of a mask that belong to each part of the queries."""
    if mask is None or mask.shape[-2] == 1:
        return [mask] * len(parts)
    return mask.split([part.shape[-2] for part in parts], dim=-2)


def _extremes(logits: torch.Tensor, hidden: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest of each row, [..., 1]."""
    if hidden is not None:
        none = hidden.all(-1, keepdim=True)
        low = logits.masked_fill(hidden, torch.inf).amin(-1, keepdim=True)
        high = logits.masked_fill(hidden, -torch.inf).amax(-1, keepdim=True)
        return low.masked_fill(none, 0), high.masked_fill(none, 0)
    if logits.device.type == "cpu":  # there amin and amax are four times as fast as aminmax
        return logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
    low, high = logits.aminmax(dim=-1, keepdim=True)
    return low, high


def augment(
    query: torch.Tensor,
    key: torch.Tensor,
    alpha: torch.Tensor,
    pixel_segments: torch.Tensor,
    key_segments: torch.Tensor,
    key_bias: torch.Tensor | None = None,
    exempt: torch.Tensor | None = None,
    chunk: int | None = None,
    *,
    scale: float | None = None,
    extremes: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation (3): queries and keys whose plain scaled dot product is the modulated logit, less alpha_i min_i.

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
        scale: of the logits; None is 1/sqrt(d).
        extremes: what `logit_range` gives for these queries and keys, if it is known.

    Returns:
        q~ [B, heads, L, d'] and k~ [B, heads, S, d'], to be used with the same scale, of the original d.
    """
    d, heads = query.shape[-1], query.shape[1]
    low, high = extremes or logit_range(query, key, d**-0.5 if scale is None else scale, chunk)
    on_query, on_key = _factors(query, scale)
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


def _factors(query: torch.Tensor, scale: float | None) -> tuple[float, float]:
    """What the queries' and the keys' further channels are multiplied by, so that the scale leaves their product alone.

    1 / scale (sqrt(d)) is on the queries' side; in half precision, where that could overflow, on the keys'.
    """
    root = query.shape[-1] ** 0.5 if scale is None else 1 / scale
    return (1.0, root) if query.dtype in HALF else (root, 1.0)


# joint attention ----------------------------------------------------------------------------------------------------
@dataclass
class Block:
    """Keys of one kind in a joint attention.

    Attributes:
        keys: where they are among all keys: a slice, or indices [S_b].
        alpha: a, [B, L]; None leaves the block's logits as they are (registers, padding).
        segments: e, [B, S_b, N]; needed with alpha.
        bias: log omega, [B, N], or None.
        exempt: [B, S_b] in {0, 1}, or None.
    """

    keys: slice | torch.Tensor
    alpha: torch.Tensor | None = None
    segments: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    exempt: torch.Tensor | None = None


def joint_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Sequence[Block],
    pixel_segments: torch.Tensor,
    scale: float | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the image's queries with each block of keys modulated by itself: (3'), exact, [B, heads, L, d].

    An extension of this project. Keys that no block names are left as they are. Of one block it is (3) itself. With
    gradients, or where no fused kernel gives its log-sums, the wide form is used: log-sums have no gradient.

    Args:
        query: of the image, [B, heads, L, d].
        key, value: of all, [B, heads, S, d].
        blocks: at least one, without a key in common.
        pixel_segments: m, [B, L, N], one-hot or zero.
        scale: of the logits; None is 1/sqrt(d).
        mask: bool (true where a key is seen) or added to the logits, after the modulation; broadcastable to
            [B, heads, L, S]. A key that it hides (below HIDDEN) does not count in a block's range. A query that sees
            no key at all gets 0.
    """
    blocks = [*blocks, *_unnamed(blocks, key)]
    parts = [_part_of(block, key, value, mask, query.dtype) for block in blocks]
    if len(parts) == 1 and blocks[0].alpha is not None:
        part = parts[0]
        q, k, _ = part.modulated(query, pixel_segments, scale)
        return attend(q, k, part.value, query.shape[-1], scale, part.bias)
    if not _takes_log_sums(query, parts, pixel_segments):
        return _attend_wide(query, parts, pixel_segments, scale)
    outs, sums = [], []
    for part in parts:
        q, k, dropped = part.modulated(query, pixel_segments, scale)
        out, log_sum = attend_lse(q, k, part.value, query.shape[-1] ** -0.5 if scale is None else scale, part.bias)
        outs.append(out)
        sums.append(log_sum + dropped)
    weights = torch.stack(sums).softmax(0).nan_to_num(0.0)[..., None]  # of a query without a key, all are -inf
    return torch.stack([weight * out for weight, out in zip(weights, outs, strict=True)]).sum(0).to(query.dtype)


@dataclass
class _Part:
    """A block with its keys and values [B, heads, S_b, d] and what the mask adds to its logits, if anything."""

    block: Block
    key: torch.Tensor
    value: torch.Tensor
    bias: torch.Tensor | None

    @property
    def hidden(self) -> torch.Tensor | None:
        return None if self.bias is None else self.bias < HIDDEN

    def modulated(
        self, query: torch.Tensor, pixel_segments: torch.Tensor, scale: float | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | float]:
        """q~ and k~ of (3), and alpha_i min_i [B, heads, L], which they leave out."""
        block = self.block
        if block.alpha is None or block.segments is None:
            return query, self.key, 0.0
        low, high = logit_range(
            query, self.key, query.shape[-1] ** -0.5 if scale is None else scale, hidden=self.hidden
        )
        q, k = augment(
            query,
            self.key,
            block.alpha,
            pixel_segments,
            block.segments,
            block.bias,
            block.exempt,
            scale=scale,
            extremes=(low, high),
        )
        return q, k, block.alpha[:, None].to(query.dtype) * low[..., 0]


def _part_of(
    block: Block, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, kind: torch.dtype
) -> _Part:
    bias = None
    if mask is not None:
        bias = mask[..., block.keys]
        if bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=kind).masked_fill(~bias, -torch.inf)
        bias = bias.to(kind) if bias.any() else None  # a mask that hides nothing of the block costs nothing
    return _Part(block, key[:, :, block.keys], value[:, :, block.keys], bias)


def _unnamed(blocks: Sequence[Block], key: torch.Tensor) -> list[Block]:
    """A plain block of the keys that none of the blocks names, if there are any."""
    left = torch.ones(key.shape[2], dtype=torch.bool)
    for block in blocks:
        left[block.keys if isinstance(block.keys, slice) else block.keys.cpu()] = False
    return [Block(left.nonzero()[:, 0].to(key.device))] if left.any() else []


def _takes_log_sums(query: torch.Tensor, parts: Sequence[_Part], pixel_segments: torch.Tensor) -> bool:
    if torch.is_grad_enabled() and any(x.requires_grad for p in parts for x in (query, p.key, p.value)):
        return False
    d, n = query.shape[-1], pixel_segments.shape[-1]
    widths = [d + n if part.block.exempt is None else 2 * d + n + 1 for part in parts]
    return all(
        _log_sum_kernel(str(query.device), query.dtype, _padded_width(width), part.bias is not None) is not None
        for width, part in zip(widths, parts, strict=True)
    )


# attention with its log-sums ----------------------------------------------------------------------------------------
def attend_lse(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fused attention [B, heads, L, d] and the log of the sum of its exponentials, [B, heads, L], without a gradient.

    Args:
        bias: added to the logits, broadcastable to [B, heads, L, S], or None. Of a query that sees no key (all of its
            row is -inf) the attention is 0 and the log-sum -inf.

    Raises:
        NotImplementedError: if no fused kernel of this device and type gives log-sums.
    """
    kernel = _log_sum_kernel(str(query.device), query.dtype, _padded_width(query.shape[-1]), bias is not None)
    if kernel is None:
        raise NotImplementedError(f"no fused attention in {query.dtype} on {query.device} gives its log-sums")
    width = _padded_width(query.shape[-1])
    q, k, v = (F.pad(x, (0, width - x.shape[-1])).contiguous() for x in (query, key, value))
    if bias is None:
        out, log_sum = kernel(q, k, v, scale, None)
        return out[..., : value.shape[-1]], log_sum
    unseen = (bias == -torch.inf).all(-1)  # the kernels differ in what they give for such a row
    out, log_sum = kernel(q, k, v, scale, bias.expand(*query.shape[:-1], key.shape[-2]))
    out = out[..., : value.shape[-1]].masked_fill(unseen[..., None], 0)
    return out, log_sum.masked_fill(unseen, -torch.inf)


# private operators: the public function returns no log-sums. `_log_sum_kernel` tries each before it is used
def _on_cpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, log_sum = attention(query, key, value, attn_mask=bias, scale=scale)[:2]
    return out, log_sum


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if bias is not None or query.shape[-1] > 256:
        raise NotImplementedError
    out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[:2]
    return out, log_sum


def _efficient(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if bias is not None:  # its rows begin at multiples of 16 bytes
        bias = F.pad(bias, (0, -bias.shape[-1] % 8))[..., : bias.shape[-1]]
    attention = torch.ops.aten._scaled_dot_product_efficient_attention
    out, log_sum = attention(query, key, value, bias, True, scale=scale)[:2]
    return out, log_sum[..., : query.shape[-2]]  # it pads them


KERNELS: dict[str, tuple[LogSumKernel, ...]] = {"cpu": (_on_cpu,), "cuda": (_flash, _efficient)}


@cache
def _log_sum_kernel(device: str, kind: torch.dtype, width: int, biased: bool) -> LogSumKernel | None:
    """The first kernel of this device that gives attention and log-sums as they are by definition, or None."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, width, generator=g).to(device, kind) for n in (16, 24, 24))
    bias = torch.randn(1, 2, 16, 24, generator=g).to(device, kind) if biased else None
    logits = (q.float() @ k.float().transpose(-1, -2)) * width**-0.5 + (0 if bias is None else bias.float())
    wanted = logits.softmax(-1) @ v.float(), logits.logsumexp(-1)
    for kernel in KERNELS.get(device.split(":")[0], ()):
        try:
            with torch.no_grad():
                found = kernel(q, k, v, width**-0.5, bias)
            if all(torch.allclose(x.float(), y, atol=0.05, rtol=0) for x, y in zip(found, wanted, strict=True)):
                return kernel
        except (RuntimeError, NotImplementedError, AttributeError, TypeError):
            continue  # another torch, or another GPU
    return None


# the wide form ------------------------------------------------------------------------------------------------------
def _attend_wide(
    query: torch.Tensor, parts: Sequence[_Part], pixel_segments: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """`joint_attention` as one attention."""
    starts = [sum(p.key.shape[2] for p in parts[:i]) for i in range(len(parts) + 1)]
    blocks = [replace(part.block, keys=slice(a, b)) for part, a, b in zip(parts, starts[:-1], starts[1:], strict=True)]
    key, value = (torch.cat(x, 2) for x in ([p.key for p in parts], [p.value for p in parts]))
    bias = None
    if any(part.bias is not None for part in parts):
        whole = [query.new_zeros(()).expand(1, 1, 1, p.key.shape[2]) if p.bias is None else p.bias for p in parts]
        shape = torch.broadcast_shapes(*(x[..., :1].shape for x in whole))[:-1]
        bias = torch.cat([x.expand(*shape, x.shape[-1]) for x in whole], -1)
    q, k = augment_blocks(query, key, pixel_segments, blocks, scale=scale, bias=bias)
    return attend(q, k, value, query.shape[-1], scale, bias)


def augment_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    pixel_segments: torch.Tensor,
    blocks: Sequence[Block],
    chunk: int | None = None,
    *,
    scale: float | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The wide form of (3'): as `augment`, exact, with the keys in blocks that are each modulated by themselves.

    What drops out of one block's softmax, a_i min_i, differs between blocks, so it rides on a channel of its own.

    Args:
        query: of the image, [B, heads, L, d].
        key: [B, heads, S, d].
        pixel_segments: m, [B, L, N], one-hot or zero.
        blocks: in the keys' order; together all keys.
        scale: of the logits; None is 1/sqrt(d).
        bias: what a mask will add to the logits; the keys that it hides do not count in a block's range.

    Returns:
        q~ [B, heads, L, d'] and k~ [B, heads, S, d'], to be used with the same scale, of the original d.
    """
    d, heads, kind = query.shape[-1], query.shape[1], query.dtype
    on_query, on_key = _factors(query, scale)
    m = pixel_segments[:, None].to(kind)
    queries, keys = [], []
    for block in blocks:
        own = key[:, :, block.keys]
        if block.alpha is None or block.segments is None:
            queries.append(query)
            keys.append(own)
            continue
        hidden = None if bias is None else bias[..., block.keys] < HIDDEN
        low, high = logit_range(query, own, d**-0.5 if scale is None else scale, chunk, hidden)
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


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_dim: int,
    scale: float | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Fused scaled-dot-product attention for augmented queries and keys, [B, heads, L, d].

    All three are padded with zeros to one width, a multiple of 8: kernels that never materialise L x S want that.

    Args:
        head_dim: the original d.
        scale: of the logits; None is 1/sqrt(head_dim).
        mask: as `scaled_dot_product_attention` takes it.
    """
    width = _padded_width(query.shape[-1])
    q, k, v = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=head_dim**-0.5 if scale is None else scale)
    return out[..., : value.shape[-1]]


def _padded_width(width: int) -> int:
    return -(-width // 8) * 8


# strength -----------------------------------------------------------------------------------------------------------
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
