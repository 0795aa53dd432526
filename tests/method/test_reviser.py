"""The network of the second stage, and its use on whole heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fixtures_pipeline import TINY, random_network, random_reviser
from isochroma.method.flow import DRAFT_TIME
from isochroma.method.refinement import Refined
from isochroma.method.reviser import EXTRA, LOG_VARIANCES, Reviser, guides
from isochroma.method.sampling import FlowSampler, RevisionSampler

SHAPE = (18, 21, 13)


def parts(seed: int = 0) -> dict[str, np.ndarray]:
    """Edges, mask, first pass and source of a random head."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, bool)
    mask[2:-2, 3:-1, 1:-2] = True
    first, source = (np.float32(rng.uniform(-1, 1, SHAPE)) * mask for _ in range(2))
    return {
        "edges": (rng.random(SHAPE) < 0.2) & mask,
        "mask": mask,
        "first": first,
        "source": source,
    }


def refined(first: np.ndarray, mask: np.ndarray, seed: int = 1) -> Refined:
    rng = np.random.default_rng(seed)
    slope, residual = (np.float32(rng.normal(0, 0.5, SHAPE)) * mask for _ in range(2))
    return Refined(0.8 * first, 0.04, 0.9, slope, residual)


def from_first_stage() -> tuple[Reviser, torch.nn.Module]:
    """A reviser with the weights of a first stage, and 0 where that has none."""
    first, reviser = random_network(), Reviser(TINY)
    state = reviser.state_dict()
    for name, value in first.state_dict().items():
        state[name].zero_()
        state[name][tuple(slice(n) for n in value.shape)] = value
    return reviser.eval(), first


def test_with_the_first_stage_s_weights_it_is_the_second_pass() -> None:
    reviser, first = from_first_stage()
    head = parts()
    draft = refined(head["first"], head["mask"])
    expected = FlowSampler(first).revise(head["edges"], head["mask"], draft.image).image
    found = RevisionSampler(reviser).revise(**head, refined=draft).image
    np.testing.assert_allclose(found, np.clip(expected, -1, 1) * head["mask"], atol=1e-5)
    assert np.abs(expected - draft.image)[head["mask"]].mean() > 0.01


def test_draft_factors_are_those_of_the_flow() -> None:
    """A network that returns 0 leaves what the preconditioning keeps of the draft."""
    silent = Reviser(TINY)
    with torch.no_grad():
        silent.out.weight.zero_()
        silent.out.bias.zero_()
    draft = torch.ones(1, 1, 8, 8, 8)
    mean, _ = silent(draft, torch.zeros(1, 4, 8, 8, 8), torch.zeros(1, 5, 8, 8, 8))
    variance = (DRAFT_TIME * TINY.data_std) ** 2 + (1 - DRAFT_TIME) ** 2
    keep = (DRAFT_TIME * TINY.data_std**2 - (1 - DRAFT_TIME)) / variance
    expected = DRAFT_TIME * (1 + (1 - DRAFT_TIME) * keep)
    torch.testing.assert_close(mean, torch.full_like(mean, expected))


@pytest.mark.parametrize("name", ["first", "source"])
def test_it_sees_what_the_draft_was_made_from(name: str) -> None:
    sampler, head = RevisionSampler(random_reviser()), parts()
    draft = refined(head["first"], head["mask"])
    before = sampler.revise(**head, refined=draft)
    after = sampler.revise(**head | {name: 0.5 * head[name]}, refined=draft)
    assert np.abs(after.image - before.image).max() > 1e-3
    assert np.abs(after.error - before.error).max() > 1e-4


def test_what_lies_outside_the_mask_does_not_matter() -> None:
    sampler, head = RevisionSampler(random_reviser()), parts()
    draft = refined(head["first"], head["mask"])
    before = sampler.revise(**head, refined=draft)
    bright = np.where(head["mask"], head["source"], 7.0).astype(np.float32)
    after = sampler.revise(**head | {"source": bright}, refined=draft)
    np.testing.assert_array_equal(after.image, before.image)
    for volume in before:
        assert volume.dtype == np.float32
        assert not volume[~head["mask"]].any()


def test_in_range() -> None:
    head = parts()
    sampler = RevisionSampler(random_reviser(scale=2.0))
    image, error = sampler.revise(**head, refined=refined(head["first"], head["mask"]))
    assert np.abs(image).max() <= 1
    least, most = (np.exp(0.5 * limit) for limit in LOG_VARIANCES)
    assert error[head["mask"]].min() >= 0.999 * least
    assert error.max() <= 1.001 * most


def test_little_memory_gives_nearly_the_same() -> None:
    rng = np.random.default_rng(2)
    shape = (80, 40, 40)
    mask = np.ones(shape, bool)
    source, first, slope, residual = (np.float32(rng.uniform(-0.5, 0.5, shape)) for _ in range(4))
    edges = rng.random(shape) < 0.1
    draft = Refined(first, 0.04, 0.9, slope, residual)
    reviser = random_reviser(scale=0.03)
    whole = RevisionSampler(reviser)
    tiles = whole.within(0.002)
    assert tiles.tile < 80
    found, by_tiles = (each.revise(edges, mask, first, source, draft) for each in (whole, tiles))
    for one, other in zip(found, by_tiles, strict=True):
        assert np.abs(other - one).mean() < 0.05 * one.std() + 1e-3
        assert np.abs(other - one).max() > 0  # it was tiled


def test_guides() -> None:
    """The step that would explain a residual is residual / slope where the source is exact."""
    draft = torch.full((1, 1, 2, 2, 2), 0.3)
    values = {"source": 0.1, "first": 0.2, "slope": -2.0, "residual": 0.4, "spread": 0.0}
    extra = torch.stack([torch.full((2, 2, 2), values[name]) for name in EXTRA])[None]
    shown, signs = guides(draft, extra)
    expected = [0.3, 0.1, 0.2, -0.2, 0.1]
    torch.testing.assert_close(shown[0, :, 0, 0, 0], torch.tensor(expected), atol=1e-4, rtol=0)
    torch.testing.assert_close(signs[0, :, 0, 0, 0], torch.tensor([2.0, 0.4]))
    flat = extra.clone()
    flat[:, EXTRA.index("slope")] = 0
    assert not guides(draft, flat)[0][:, 3:].any()  # a flat curve tells nothing
