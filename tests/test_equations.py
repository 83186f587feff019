"""The modulation's equations against the direct formula, in float64."""

from dataclasses import replace

import pytest
import torch

from accord.methods.realign import equations
from accord.methods.realign.equations import (
    Block,
    attend,
    attend_lse,
    augment,
    augment_blocks,
    joint_attention,
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


@pytest.mark.parametrize("room", [1, 40, 200, 2000])
def test_the_pieces_that_a_cpu_takes_do_not_change_the_range(monkeypatch, room):
    """Some queries of one head at a time, or several heads; with a mask another way is taken."""
    monkeypatch.setattr(equations, "CACHED", room)
    q, k, *_ = setting()
    logits = q @ k.transpose(-1, -2) * 0.25
    hidden = torch.zeros(B, 1, 1, S, dtype=torch.bool)
    for chunk in (None, 5, 100):
        for mask in (None, hidden):
            low, high = logit_range(q, k, 0.25, chunk, mask)
            assert torch.allclose(low, logits.amin(-1, keepdim=True), atol=1e-14, rtol=0)
            assert torch.allclose(high, logits.amax(-1, keepdim=True), atol=1e-14, rtol=0)


def test_a_cpu_never_has_more_than_its_cache_holds(monkeypatch):
    """Of 4 heads with 256 queries and keys: 64 queries of one head at least."""
    q, k = (torch.randn(1, 4, 256, D, generator=torch.Generator().manual_seed(i)) for i in range(2))
    seen = []
    extremes = equations._extremes
    monkeypatch.setattr(equations, "_extremes", lambda x, *a: seen.append(tuple(x.shape)) or extremes(x, *a))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for room, shape in ((1, (1, 64, 256)), (256 * 50, (1, 100, 256)), (256 * 256, (2, 256, 256))):
        monkeypatch.setattr(equations, "CACHED", room)
        seen.clear()
        logit_range(q, k, 1.0)
        assert seen[0] == shape and sum(a * b for a, b, _ in seen) == 4 * 256


def test_range_of_the_keys_that_are_seen():
    q, k, *_ = setting()
    logits = q @ k.transpose(-1, -2) * 0.25
    hidden = torch.rand(B, 1, L, S, generator=torch.Generator().manual_seed(0)) < 0.5
    hidden[:, :, 2] = True
    low, high = logit_range(q, k, 0.25, 5, hidden)
    wanted = logits.masked_fill(hidden, torch.inf).amin(-1), logits.masked_fill(hidden, -torch.inf).amax(-1)
    rows = torch.arange(L) != 2
    assert torch.allclose(low[:, :, rows, 0], wanted[0][:, :, rows], atol=1e-14, rtol=0)
    assert torch.allclose(high[:, :, rows, 0], wanted[1][:, :, rows], atol=1e-14, rtol=0)
    assert (low[:, :, 2] == 0).all() and (high[:, :, 2] == 0).all()


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


# --- joint attention ------------------------------------------------------------------------------------------------
REGISTERS, PADDING = 3, 2  # before the text, after the image
TEXT, IMAGE = slice(REGISTERS, REGISTERS + S), slice(REGISTERS + S, REGISTERS + S + L)
KEYS = REGISTERS + S + L + PADDING


@pytest.fixture(params=["log-sums", "wide"])
def form(request, monkeypatch):
    """Both forms; the wide one is that of a device without log-sums."""
    if request.param == "wide":
        monkeypatch.setattr(equations, "_log_sum_kernel", lambda *_: None)
    return request.param


def joint_setting(extras: bool = False, kind: torch.dtype = torch.float64):
    """Queries, keys, values, blocks, m. The smallest logits of the two kinds of keys are far apart."""
    q, text, _, m, e, alpha = setting(8)
    _, key, value, *_ = setting(9, keys=KEYS)
    key[:, :, TEXT] = text
    q, key = (x.to(kind).double() for x in (q + 0.7, key))  # so that every type is given the same
    key[:, :, IMAGE] = (key[:, :, IMAGE] + 1).to(kind).double()
    weaker = 0.6 * alpha.flip(0) * m.amax(-1)
    bias = exempt = None
    if extras:
        bias = torch.randn(B, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        exempt = (torch.arange(S) < 3).double().expand(B, S)
    blocks = [Block(TEXT, alpha, e, bias, exempt), Block(IMAGE, weaker, m)]
    return q, key, value, blocks, m


def joint_direct(q, k, v, blocks, m, scale=D**-0.5, mask=None, of_smallest=1.0):
    """Every logit by (1); `of_smallest` other than 1 is what a wrong sum of blocks would give."""
    logits = q @ k.transpose(-1, -2) * scale
    added = torch.zeros(()).double() if mask is None else mask
    if added.dtype == torch.bool:
        added = torch.zeros(mask.shape).double().masked_fill(~mask, -torch.inf)
    added = added.expand_as(logits)
    moved = logits.clone()
    for block in blocks:
        own, hidden = logits[..., block.keys], added[..., block.keys] < -1000
        a = block.alpha[:, None, :, None]
        low = own.masked_fill(hidden, torch.inf).amin(-1, keepdim=True)
        high = own.masked_fill(hidden, -torch.inf).amax(-1, keepdim=True)
        low, high = (x.masked_fill(hidden.all(-1, keepdim=True), 0) for x in (low, high))
        related = (m @ block.segments.transpose(1, 2))[:, None]
        new = own + related * a * (high - own) - (1 - related) * a * (own - low) + (of_smallest - 1) * a * low
        if block.bias is not None:
            new = new + ((m * block.bias[:, None]) @ block.segments.transpose(1, 2))[:, None]
        moved[..., block.keys] = new if block.exempt is None else torch.where(block.exempt[:, None, None] > 0, own, new)
    return (moved + added).softmax(-1).nan_to_num(0) @ v


def masks():
    """Of each kind that a model may give; the text's last keys are hidden, and all of it from the second prompt."""
    seen = torch.ones(B, 1, 1, KEYS, dtype=torch.bool)
    seen[0, ..., TEXT.stop - 4 : TEXT.stop] = False
    seen[1, ..., TEXT] = False
    rows = seen.expand(B, 1, L, KEYS).clone()
    rows[:, :, : L // 2, IMAGE.start + 5 :] = False
    rows[:, :, 3] = False
    lowest = torch.zeros(rows.shape).double().masked_fill(~rows, torch.finfo(torch.float32).min)
    soft = torch.randn(B, 1, L, KEYS, generator=torch.Generator().manual_seed(3)).double()
    return {
        "keys": seen,
        "rows": rows,
        "lowest": lowest.index_fill(2, torch.tensor([3]), 0.0),
        "soft": soft.masked_fill(~rows, -torch.inf),
        "ten thousand": torch.zeros(seen.shape).double().masked_fill(~seen, -10_000.0),
        "all": torch.ones(1, 1, 1, KEYS, dtype=torch.bool),
    }


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("mask", [None, *masks()])
def test_joint_attention_is_the_direct_formula_with_registers_padding_and_masks(form, extras, mask):
    q, k, v, blocks, m = joint_setting(extras)
    given = None if mask is None else masks()[mask]
    for scale in (D**-0.5, 0.21):
        out = joint_attention(q, k, v, blocks, m, scale, given)
        wanted = joint_direct(q, k, v, blocks, m, scale, given)
        assert wanted.isfinite().all() and torch.allclose(out, wanted, atol=1e-11, rtol=0)
        for wrong in (0.0, -1.0):  # the smallest logit left out, or subtracted
            other = joint_direct(q, k, v, blocks, m, scale, given, wrong)
            assert (other - wanted).abs().max() > 0.05
    if mask == "rows":
        assert (out[:, :, 3] == 0).all()
    unscaled = joint_attention(q, k, v, blocks, m, mask=given)
    assert torch.allclose(unscaled, joint_direct(q, k, v, blocks, m, mask=given), atol=1e-11, rtol=0)


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("mask", [None, "rows", "soft"])
@pytest.mark.parametrize(
    ("kind", "error"), [(torch.float32, 5e-6), (torch.float16, 0.01), (torch.bfloat16, 0.1)], ids=str
)
def test_joint_attention_in_less_precision(form, extras, mask, kind, error):
    q, k, v, blocks, m = joint_setting(extras, kind)
    given = None if mask is None else masks()[mask]
    exact = joint_direct(q, k, v, blocks, m, mask=given)
    lower = [
        Block(b.keys, *(None if x is None else x.to(kind) for x in (b.alpha, b.segments, b.bias, b.exempt)))
        for b in blocks
    ]
    if given is not None and given.dtype != torch.bool:
        given = given.to(kind)
    out = joint_attention(q.to(kind), k.to(kind), v.to(kind), lower, m.to(kind), mask=given)
    assert out.dtype == kind and (out.double() - exact).abs().max() < error


def test_without_strength_joint_attention_is_plain(form):
    q, k, v, blocks, m = joint_setting()
    for b in blocks:
        b.alpha = 0 * b.alpha
    for mask in (None, masks()["keys"]):
        plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert torch.allclose(joint_attention(q, k, v, blocks, m, mask=mask), plain, atol=1e-12, rtol=0)


def test_what_lies_under_hidden_keys_does_not_matter(form):
    """Else a picture would depend on how far the texts of its batch are padded."""
    q, k, v, blocks, m = joint_setting()
    mask = masks()["keys"]
    out = joint_attention(q, k, v, blocks, m, mask=mask)
    k, v = (torch.where(mask.transpose(2, 3), x, 9.0) for x in (k, v))
    assert torch.allclose(joint_attention(q, k, v, blocks, m, mask=mask), out, atol=1e-12, rtol=0)


def test_plain_blocks_may_be_named_or_not_and_keys_be_indices(form):
    q, k, v, blocks, m = joint_setting()
    out = joint_attention(q, k, v, blocks, m)
    named = [Block(slice(REGISTERS)), *blocks[::-1], Block(slice(IMAGE.stop, None))]
    named[1] = replace(named[1], keys=torch.arange(KEYS)[named[1].keys])
    assert torch.allclose(joint_attention(q, k, v, named, m), out, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_one_block_is_the_form_of_one_kind_of_keys_bit_for_bit(form, kind):
    q, k, v, m, e, alpha = (x.to(kind) for x in setting(7))
    bias = torch.randn(B, N, generator=torch.Generator().manual_seed(0)).to(kind)
    exempt = (torch.arange(S) < 3).to(kind).expand(B, S)
    out = joint_attention(q, k, v, [Block(slice(None), alpha, e, bias, exempt)], m)
    assert torch.equal(out, attend(*augment(q, k, alpha, m, e, bias, exempt), v, D))


def test_one_block_takes_a_mask_and_a_scale(form):
    q, k, v, m, e, alpha = setting(7)
    mask = torch.arange(S).expand(B, 1, 1, S) < torch.tensor([S, S - 4]).view(B, 1, 1, 1)
    blocks = [Block(slice(None), alpha, e)]
    out = joint_attention(q, k, v, blocks, m, 0.21, mask)
    assert torch.allclose(out, joint_direct(q, k, v, blocks, m, 0.21, mask), atol=1e-12, rtol=0)


def test_gradients_flow_though_log_sums_have_none(form):
    q, k, v, blocks, m = joint_setting()
    inputs = [x.requires_grad_() for x in (q, k, v)]
    found, wanted = (
        torch.autograd.grad(f(*inputs, blocks, m).square().sum(), inputs) for f in (joint_attention, joint_direct)
    )
    assert all(torch.allclose(a, b, atol=1e-9, rtol=0) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_attention_comes_with_its_log_sums(kind):
    q, k, v, *_ = (x.to(kind) for x in setting())
    bias = torch.randn(B, 1, L, S, generator=torch.Generator().manual_seed(0)).to(kind)
    bias[0, :, 2] = -torch.inf
    for given in (None, bias):
        logits = q.double() @ k.double().transpose(-1, -2) * 0.3 + (0 if given is None else given.double())
        out, log_sum = attend_lse(q, k, v, 0.3, given)
        exact = logits.softmax(-1).nan_to_num(0) @ v.double()
        error = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}[kind]
        assert out.dtype == kind and out.shape == q.shape
        assert torch.allclose(out.double(), exact, atol=error, rtol=0)
        assert torch.allclose(log_sum.double(), logits.logsumexp(-1), atol=error, rtol=0)
    assert (log_sum[0, :, 2] == -torch.inf).all() and (out[0, :, 2] == 0).all()


def test_a_kernel_that_fails_or_errs_is_passed_over(monkeypatch):
    def fails(*_):
        raise RuntimeError("no such kernel")

    def errs(query, key, value, scale, bias):
        out, log_sum = equations._on_cpu(query, key, value, scale, bias)
        return out, log_sum / 0.7  # in units of another base

    q, k, v, *_ = setting()
    try:
        for kernels, works in (((fails, errs), False), ((errs, equations._on_cpu), True)):
            equations._log_sum_kernel.cache_clear()
            monkeypatch.setattr(equations, "KERNELS", {"cpu": kernels})
            if works:
                assert attend_lse(q, k, v, 1.0)[0].shape == q.shape
            else:
                with pytest.raises(NotImplementedError, match=r"no fused attention in torch.float64 on cpu gives"):
                    attend_lse(q, k, v, 1.0)
    finally:
        equations._log_sum_kernel.cache_clear()


def test_the_wide_form_is_taken_only_without_log_sums_or_with_gradients(monkeypatch):
    q, k, v, blocks, m = joint_setting()
    taken = []
    wide = equations._attend_wide
    monkeypatch.setattr(equations, "_attend_wide", lambda *a: taken.append(1) or wide(*a))
    joint_attention(q, k, v, blocks, m)
    assert not taken
    with torch.no_grad():
        joint_attention(q.requires_grad_(), k, v, blocks, m)
    assert not taken
    joint_attention(q, k, v, blocks, m)
    assert taken


@pytest.mark.parametrize("exempt", [False, True])
@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_another_scale_is_the_formula_at_that_scale(kind, exempt):
    q, k, v, m, e, alpha = setting(7)
    x = (torch.arange(S) < 3).double().expand(B, S) if exempt else None
    bias = torch.tensor([[0.3, -1.0, 0.7]] * B, dtype=torch.float64)
    wanted = joint_direct(q, k, v, [Block(slice(None), alpha, e, bias, x)], m, 0.8)
    q, k, v, m, e, alpha, bias = (t.to(kind) for t in (q, k, v, m, e, alpha, bias))
    parts = augment(q, k, alpha, m, e, bias, None if x is None else x.to(kind), scale=0.8)
    out = attend(*parts, v, D, 0.8)
    assert (out.double() - wanted).abs().max() < (1e-12 if kind == torch.float64 else 0.02)
