"""Context on pipelines of several families, by the same lines: in sampling, in training, and in inversion."""

import pytest
import torch
from zoo import CALL, fresh, shared

from accord.diffusion.generate import generate, generators
from accord.diffusion.opened import Opened
from accord.diffusion.process import level_at, levels
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.data import draw_from, encode_images
from accord.methods.context.pipeline import load_context, new_relation, shapes_of
from accord.methods.context.process import ShiftedProcess
from accord.methods.context.sampling import Context, OfStates
from accord.methods.context.train import Objective, train_context
from accord.methods.edit.editing import invert, sample_from
from accord.types import InputError

PROMPTS = ["a red star", "a blue key"]
FLOWS = ("sd35", "flux2klein", "wan")  # states that are latents, packed ones, and videos


def awake(network):
    """With an output layer that is not zero."""
    torch.manual_seed(0)
    torch.nn.init.normal_(network.out.weight, std=0.2)
    return network.eval()


def call_of(name: str) -> dict:
    """Without guidance."""
    return {k: v for k, v in CALL[name].items() if "guidance" not in k and "cfg" not in k and "negative" not in k}


def of(name: str) -> Context:
    pipe, call = shared(name), call_of(name)
    network = awake(new_relation(pipe, 1.0, call=call))
    return Context.of(pipe, network, "quadratic", num_inference_steps=3, call=call)


@pytest.mark.parametrize("name", FLOWS)
def test_a_shifted_run_is_the_equation_written_out(name):
    """x_s = a_s x0^ + s_s e~ + b_s - (s_s / s_t) b_t, r of the guided x0^ at both times; without r the plain run."""
    context, seen = of(name), []
    plain = Opened(shared(name), 3, **context.opened.call).rollout(PROMPTS, generators([3, 4]))
    none = Context(context.opened, context.unguided, context.network, "quadratic", scale=0.0)
    assert torch.equal(none.run(PROMPTS, generators([3, 4])), plain)

    def keep(step, new):
        seen.append((step, new))
        return new

    state = context.run(PROMPTS, generators([3, 4]), after_step=keep)
    assert torch.equal(state, seen[-1][1]) and not torch.allclose(state, plain, atol=1e-3)
    relation = context.relation(PROMPTS)
    grid, times = levels(seen[0][0].scheduler), [*seen[0][0].scheduler.timesteps.tolist(), -1]
    for step, new in seen:
        now, after = grid[step.index], grid[step.index + 1]
        x0 = step.latents - now.s * step.output
        r_t, r_s = relation(x0, times[step.index], times[step.index + 1])
        flow = [1 - level_at(step.scheduler, max(t, 0.0), x0).s for t in times[step.index : step.index + 2]]
        k_t, k_s = (a * (1 - a) for a in flow)
        expected = after.a * x0 + after.s * (step.output + x0) + k_s * r_s - after.s / now.s * k_t * r_t
        assert torch.allclose(new, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["zimage", "qwenimage"])  # texts at their own lengths, and padded to the longest
def test_a_picture_does_not_depend_on_the_texts_beside_it(name):
    context = of(name)
    together = context.run(["a red star", "two blue keys and a green moon"], generators([3, 4]))
    assert torch.allclose(together[:1], context.run(["a red star"], generators([3])), atol=1e-4)


@pytest.mark.parametrize("name", [*FLOWS, "sd1"])
def test_what_is_inverted_with_context_samples_back_with_it_alone(name):
    context = of(name)
    opened, prompt = context.opened, PROMPTS[:1]
    x0 = context.run(prompt, generators([3]))
    drift = context.drift(prompt, x0)
    path = invert(opened, prompt, x0, rounds=12, drift=drift)
    back, without = (sample_from(opened, prompt, path[-1], drift=d) for d in (drift, None))
    off = [float((x - x0).norm() / x0.norm()) for x in (back, without)]
    assert off[0] < 0.02 and off[1] > 2 * off[0]


@pytest.mark.parametrize("name", ["flux2klein", "wan", "cogvideox"])
def test_packed_states_are_laid_out_as_the_vaes_latents(name):
    """A network that gives back what it is shown gets each latent at its own place, and puts it back."""
    context = of(name)
    state = context.opened.noise(PROMPTS, generators([1, 2]))
    latents = context.opened.vae_latents(PROMPTS, state)
    order, shape = context.unguided.order(PROMPTS, state)
    assert shape == latents.shape[1:] and order.shape == state.shape[1:]
    first, second = (latents[i].flatten()[order.flatten()] for i in range(2))
    moved = state[0].flatten() - state[1].flatten()
    size = (first - second) / moved  # one scale for each channel of a latent
    assert torch.isfinite(size).all() and size.std() / size.mean().abs() < 1

    seen = []

    class Echo(torch.nn.Module):
        config = type("Config", (), {"channels": shape[0]})

        def forward(self, x0, states, timestep):
            seen.append((x0, states, timestep))
            return x0

    r = OfStates(Echo(), context.unguided)(state, [torch.zeros(3, 4)] * 2, torch.tensor([5, 6]))
    assert torch.equal(r, state)
    frames = shape[1] if len(shape) == 4 else 1
    assert seen[0][0].shape == (2 * frames, shape[0], *shape[-2:])
    assert seen[0][2].tolist() == [5] * frames + [6] * frames and len(seen[0][1]) == 2 * frames


@pytest.mark.parametrize("name", ["sd35", "flux2klein"])
def test_it_is_trained_and_read_again(name, tmp_path):
    from PIL import Image

    pipe = fresh(name)
    images = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    states = encode_images(pipe, images, call=call_of(name))
    assert states.shape[1:] == Opened(pipe, 2, **CALL[name]).noise(["a"], generators([0])).shape[1:]
    config = ContextTrainConfig(
        steps=2, batch_size=2, save_every=2, warmup_steps=0, learning_rate=1e-2, ema_decay=0.0, share=1.0, bf16=False
    )
    relation = train_context(pipe, draw_from(states, PROMPTS), tmp_path, config, call=call_of(name))
    assert relation.out.weight.abs().max() > 0
    again, shift = load_context(fresh(name), tmp_path, call=call_of(name))
    assert shift == "quadratic" and all(torch.equal(v, again.state_dict()[k]) for k, v in relation.state_dict().items())


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_the_loss_of_a_flow_is_finite_at_all_of_its_times(loss):
    pipe, call = shared("sd35"), call_of("sd35")
    config = ContextTrainConfig(loss=loss, share=1.0, bf16=False)
    objective = Objective(pipe, awake(new_relation(pipe, 1.0)), config, call)
    assert objective.process.first == 1  # at 0 there is no noise
    shape = objective.opened.noise(PROMPTS, generators([0, 1])).shape
    noise, yes = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.ones(2, dtype=bool)
    for times in ([1, 2], [500, 999]):
        value, _ = objective(0 * noise + 1, PROMPTS, noise, torch.tensor(times), yes, yes)
        assert torch.isfinite(value)


def test_what_takes_no_noise_or_has_other_shapes_is_refused():
    pipe = shared("sd35")
    network = new_relation(pipe, 1.0)
    with pytest.raises(InputError, match="take no noise here; leave out `ancestral`"):
        Context.of(pipe, network, "quadratic", ancestral=True)
    assert shapes_of(pipe)[0] == network.config.channels
    assert ShiftedProcess(pipe.scheduler).shift_at(-1, torch.zeros(1)) == 0
    generate(pipe, PROMPTS[0], 0, num_inference_steps=1)  # it is what it was
