"""The modulation's equations against the direct formula, in float64."""

import pytest
import torch

from accord.methods.realign.equations import (
    Block,
    attend,
    augment,
    augment_blocks,
    logit_range,
    modulated_logits,
    modulation_strength,
    segment_gain,
    time_gain,
)

B, HEADS, L, S, D, N = 2, 3, 24, 11, 8, 3


def setting(seed: int = 0, keys: int = S):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(B, HEADS, L, D, generator=g, dtype=torch.float64)
    k = torch.randn(B, HEADS, keys, D, generator=g, dtype=torch.float64)
    v = torch.randn(B, HEADS, keys, D, generator=g, dtype=torch.float64)
    segment = torch.randint(0, N + 1, (B, L), generator=g)  # N stands for no segment
    m = torch.nn.functional.one_hot(segment, N + 1)[..., :N].double()
    e = (torch.rand(B, keys, N, generator=g) < 0.4).double()
    e = e * (e.cumsum(-1) == 1)  # a key belongs to one segment at most
    alpha = torch.rand(B, L, generator=g, dtype=torch.float64) * m.amax(-1)
    return q, k, v, m, e, alpha


def direct(q, k, v, m, e, alpha):
    logits = q @ k.transpose(-1, -2) * D**-0.5
    related = (m @ e.transpose(1, 2))[:, None]
    return modulated_logits(logits, related, alpha[:, None, :, None]).softmax(-1) @ v


def test_low_rank_form_equals_the_direct_formula():
    for seed in range(5):
        q, k, v, m, e, alpha = setting(seed)
        out = attend(*augment(q, k, alpha, m, e), v, D)
        assert torch.allclose(out, direct(q, k, v, m, e, alpha), atol=1e-12, rtol=0)


def test_self_attention_form_equals_the_direct_formula():
    q, k, v, m, _, alpha = setting(1, keys=L)
    out = attend(*augment(q, k, alpha, m, m), v, D)
    assert torch.allclose(out, direct(q, k, v, m, m, alpha), atol=1e-12, rtol=0)


def test_zero_strength_is_the_identity():
    q, k, v, m, e, alpha = setting()
    out = attend(*augment(q, k, 0 * alpha, m, e), v, D)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(out, plain, atol=1e-13, rtol=0)
    assert not torch.allclose(attend(*augment(q, k, alpha, m, e), v, D), plain, atol=1e-3)


def test_all_related_leaves_the_row_maximum_and_bounds_hold():
    q, k, *_ = setting()
    logits = q @ k.transpose(-1, -2)
    alpha = torch.rand(B, 1, L, 1, dtype=torch.float64)
    raised = modulated_logits(logits, torch.ones_like(logits), alpha)
    assert torch.allclose(raised.amax(-1), logits.amax(-1))
    related = (torch.rand(B, 1, L, S) < 0.5).double()
    mixed = modulated_logits(logits, related, alpha)
    assert (mixed <= logits.amax(-1, keepdim=True) + 1e-12).all()
    assert (mixed >= logits.amin(-1, keepdim=True) - 1e-12).all()


def test_pixels_in_no_segment_are_left_alone():
    q, k, v, m, e, _ = setting()
    free = m.amax(-1) == 0
    assert free.any() and not free.all()
    strength = modulation_strength(m, torch.ones(B, N, dtype=torch.float64), 1.0, 1.0)
    assert (strength[free] == 0).all() and (strength[~free] > 0).all()
    out = attend(*augment(q, k, strength, m, e), v, D)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    rows = free[:, None].expand(-1, HEADS, -1)
    assert torch.allclose(out[rows], plain[rows], atol=1e-13, rtol=0)
    assert not torch.allclose(out[~rows], plain[~rows], atol=1e-3)


def test_exempt_keys_keep_their_logits():
    q, k, v, m, e, alpha = setting(3)
    x = torch.zeros(B, S, dtype=torch.float64)
    x[:, 0] = x[:, -2:] = 1
    e = e * (1 - x)[..., None]
    logits = q @ k.transpose(-1, -2) * D**-0.5
    related = (m @ e.transpose(1, 2))[:, None]
    moved = modulated_logits(logits, related, alpha[:, None, :, None])
    wanted = torch.where(x[:, None, None].bool(), logits, moved).softmax(-1) @ v
    assert torch.allclose(attend(*augment(q, k, alpha, m, e, exempt=x), v, D), wanted, atol=1e-12, rtol=0)


def test_key_bias_is_added_to_the_segments_own_logits():
    q, k, v, m, e, alpha = setting(4)
    bias = torch.tensor([[0.3, -1.0, 0.7]] * B, dtype=torch.float64)
    logits = q @ k.transpose(-1, -2) * D**-0.5
    related = (m @ e.transpose(1, 2))[:, None]
    added = ((m * bias[:, None]) @ e.transpose(1, 2))[:, None]
    wanted = (modulated_logits(logits, related, alpha[:, None, :, None]) + added).softmax(-1) @ v
    assert torch.allclose(attend(*augment(q, k, alpha, m, e, bias), v, D), wanted, atol=1e-12, rtol=0)


def test_unit_weights_equal_the_unweighted_modulation_exactly():
    _, _, _, m, _, _ = setting()
    ones = modulation_strength(m, torch.ones(B, N, dtype=torch.float64), 0.8, 0.5)
    share = m.mean(1)
    for b in range(B):
        for i in range(L):
            n = int(m[b, i].argmax())
            expected = (1 - share[b, n]) * 0.8 * 0.5 if m[b, i].any() else 0.0
            assert ones[b, i] == pytest.approx(float(expected), abs=1e-15)


def test_weights_scale_their_own_segment_and_are_clipped_at_one():
    _, _, _, m, _, _ = setting()
    base = modulation_strength(m, torch.ones(B, N, dtype=torch.float64), 0.5, 1.0)
    omega = torch.tensor([[2.0, 1.0, 100.0]] * B, dtype=torch.float64)
    new = modulation_strength(m, omega, 0.5, 1.0)
    first, second, third = (m[..., n].bool() for n in range(3))
    assert torch.allclose(new[first], (2 * base[first]).clamp(max=1))
    assert torch.equal(new[second], base[second])
    assert (new[third] == 1).all()


def test_logit_range_in_chunks_equals_the_whole():
    q, k, *_ = setting()
    logits = q @ k.transpose(-1, -2) * 0.25
    low, high = logit_range(q, k, 0.25, chunk=5)
    assert torch.equal(low, logits.amin(-1, keepdim=True)) or torch.allclose(low, logits.amin(-1, keepdim=True))
    assert torch.allclose(high, logits.amax(-1, keepdim=True))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_what_all_keys_share_does_not_blur_the_range_in_half_precision(kind):
    """Logits of about 300 that differ by a few: bfloat16 has only every second number there."""
    q, k, *_ = setting()
    q, k = (x.to(kind) for x in (q + 8, k + 12))
    logits = q.double() @ k.double().transpose(-1, -2) * D**-0.5
    low, high = logit_range(q, k, D**-0.5)
    true = logits.amax(-1, keepdim=True) - logits.amin(-1, keepdim=True)
    assert logits.mean() > 200 and true.mean() < 40
    assert low.dtype == high.dtype == torch.float32
    assert ((high - low - true).abs() / true).max() < (0.02 if kind == torch.bfloat16 else 0.003)
    assert torch.allclose(high.double(), logits.amax(-1, keepdim=True), atol=0.5)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_logit_range_on_another_device_has_the_same_shape_and_type(kind):
    """There in few chunks and with other operators; a device without numbers goes that way too."""
    q, k, *_ = (x.to(kind) for x in setting())
    here, there = logit_range(q, k, D**-0.5), logit_range(q.to("meta"), k.to("meta"), D**-0.5)
    assert [(x.shape, x.dtype) for x in there] == [(x.shape, x.dtype) for x in here]


def test_gains():
    m = torch.zeros(1, 4, 2)
    m[0, 0, 0] = m[0, 1, 1] = m[0, 2, 1] = 1
    assert segment_gain(m).tolist() == [[0.75, 0.5, 0.5, 0.0]]
    assert time_gain(1000) == 1 and time_gain(500) == pytest.approx(1 / 32)


@pytest.mark.parametrize("exempt", [False, True])
def test_half_precision_does_not_overflow(exempt):
    """Raw products of about 90,000, more than float16 holds, as Stable Diffusion 2.1 has them."""
    q, k, v, m, e, alpha = setting()
    q, k = 80 * q, 80 * k
    assert (q @ k.transpose(-1, -2)).abs().max() > 65504
    left = (torch.arange(S) < 3).double().expand(B, S) if exempt else None
    exact, half = (
        attend(
            *augment(*(x.to(t) for x in (q, k, alpha, m, e)), exempt=None if left is None else left.to(t)), v.to(t), D
        )
        for t in (torch.float64, torch.float16)
    )
    assert torch.isfinite(half).all() and (half.double() - exact).abs().median() < 1e-2


@pytest.mark.parametrize("text_first", [True, False])
@pytest.mark.parametrize("extras", [False, True])
def test_joint_form_equals_the_direct_formula_block_by_block(text_first, extras):
    q, text, text_value, m, e, alpha = setting(4)
    _, image, image_value, _, _, weaker = setting(5, keys=L)
    weaker = weaker * m.amax(-1)
    exempt, bias = None, None
    if extras:
        exempt = torch.zeros(B, S, dtype=torch.float64)
        exempt[:, 0] = exempt[:, -2:] = 1
        e = e * (1 - exempt)[..., None]
        bias = torch.randn(B, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = {}
    for name, k, related, a in (("text", text, e, alpha), ("image", image, m, weaker)):
        plain = q @ k.transpose(-1, -2) * D**-0.5
        logits[name] = modulated_logits(plain, (m @ related.transpose(1, 2))[:, None], a[:, None, :, None])
        if extras and name == "text":
            logits[name] = logits[name] + (m @ (e * bias[:, None]).transpose(1, 2))[:, None]
            logits[name] = torch.where(exempt[:, None, None].bool(), plain, logits[name])
    order = ("text", "image") if text_first else ("image", "text")
    keys, values = {"text": text, "image": image}, {"text": text_value, "image": image_value}
    k, v = (torch.cat([x[n] for n in order], 2) for x in (keys, values))
    wanted = torch.cat([logits[n] for n in order], -1).softmax(-1) @ v
    places = {"text": slice(S) if text_first else slice(L, None), "image": slice(S, None) if text_first else slice(L)}
    blocks = {"text": Block(places["text"], alpha, e, bias, exempt), "image": Block(places["image"], weaker, m)}
    out = attend(*augment_blocks(q, k, m, [blocks[n] for n in order]), v, D)
    assert torch.allclose(out, wanted, atol=1e-11, rtol=0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_joint_form_in_half_precision(kind):
    q, text, text_value, m, e, alpha = setting(4)
    _, image, image_value, *_ = setting(5, keys=L)
    q, k, v = (
        80 * q if kind == torch.float16 else q,
        80 * torch.cat([text, image], 2),
        torch.cat([text_value, image_value], 2),
    )
    k = k if kind == torch.float16 else k / 80
    results = []
    for t in (torch.float64, kind):
        blocks = [Block(slice(S), alpha.to(t), e.to(t)), Block(slice(S, None), 0.3 * alpha.to(t), m.to(t))]
        results.append(attend(*augment_blocks(q.to(t), k.to(t), m.to(t), blocks), v.to(t), D))
    exact, half = results
    assert half.dtype == kind and torch.isfinite(half).all() and (half.double() - exact).abs().median() < 1e-2


@pytest.mark.parametrize("exempt", [False, True])
def test_exempt_keys_keep_their_logits_in_whatever_segment_they_are(exempt):
    """Segments and biases of exempt keys count for nothing, in one block and in several."""
    q, k, v, m, e, alpha = setting(6)
    x = (torch.arange(S) < 4).double().expand(B, S) if exempt else torch.zeros(B, S, dtype=torch.float64)
    bias = torch.randn(B, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = q @ k.transpose(-1, -2) * D**-0.5
    moved = modulated_logits(logits, (m @ e.transpose(1, 2))[:, None], alpha[:, None, :, None])
    moved = moved + (m @ (e * bias[:, None]).transpose(1, 2))[:, None]
    wanted = torch.where(x[:, None, None].bool(), logits, moved).softmax(-1) @ v
    assert (e[0, :4] > 0).any()
    out = attend(*augment(q, k, alpha, m, e, key_bias=bias, exempt=x), v, D)
    assert torch.allclose(out, wanted, atol=1e-11, rtol=0)
    out = attend(*augment_blocks(q, k, m, [Block(slice(S), alpha, e, bias, x)]), v, D)
    assert torch.allclose(out, wanted, atol=1e-11, rtol=0)


@pytest.mark.parametrize("exempt", [False, True])
@pytest.mark.parametrize(("kind", "error"), [(torch.float16, 0.01), (torch.bfloat16, 0.1)])
def test_half_precision_is_the_formula(kind, error, exempt):
    """Of logits that leave the softmax open, every element: a factor on the wrong side would show."""
    q, k, v, m, e, alpha = setting(7)
    x = (torch.arange(S) < 3).double().expand(B, S) if exempt else None
    bias = torch.randn(B, N, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    results: dict[str, list[torch.Tensor]] = {"one": [], "block": [], "blocks": []}
    for t in (torch.float64, kind):
        mask = None if x is None else x.to(t)
        parts = [p.to(t) for p in (q, k, alpha, m, e)]
        results["one"].append(attend(*augment(*parts, key_bias=bias.to(t), exempt=mask), v.to(t), D))
        block = Block(slice(S), alpha.to(t), e.to(t), bias.to(t), mask)
        # of two blocks, what drops out of the softmax of one by itself counts
        early, late = slice(S // 2), slice(S // 2, S)
        two = [
            Block(early, alpha.to(t), e[:, early].to(t), None, None if mask is None else mask[:, early]),
            Block(late, 0.2 * alpha.to(t), e[:, late].to(t), bias.to(t), None),
        ]
        for name, blocks in (("block", [block]), ("blocks", two)):
            results[name].append(attend(*augment_blocks(q.to(t), k.to(t), m.to(t), blocks), v.to(t), D))
    for exact, half in results.values():
        assert half.dtype == kind and (half.double() - exact).abs().max() < error
