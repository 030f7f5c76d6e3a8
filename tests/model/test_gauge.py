"""The canonical gauge: the same directions whatever factors a product was trained into."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.gauge import Gauge, canonical_gauge


def factors(seed: int, rank: int = 3, d_in: int = 7, d_out: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)


def in_gauge(a: torch.Tensor, b: torch.Tensor, gauge: Gauge) -> tuple[torch.Tensor, torch.Tensor]:
    return gauge.forward @ a, b @ gauge.backward


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 9), st.integers(2, 9))
def test_the_slices_are_the_singular_directions_of_the_product(seed: int, rank: int, d_in: int, d_out: int) -> None:
    a, b = factors(seed, rank, d_in, d_out)
    ours_a, ours_b = in_gauge(a, b, canonical_gauge(a, b))
    torch.testing.assert_close(ours_b @ ours_a, b @ a, rtol=1e-3, atol=1e-3)
    # Oracle: the whole product, decomposed by torch.
    q = min(rank, d_in, d_out)
    singular = torch.linalg.svdvals(b.double() @ a.double())[:q].float()
    torch.testing.assert_close(ours_a[:q].norm(dim=1) ** 2, singular, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours_b[:, :q].norm(dim=0) ** 2, singular, rtol=1e-3, atol=1e-3)
    assert all(row[row.abs().argmax()] > 0 for row in ours_a[:q] if row.norm() > 1e-2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_rotation_norm_and_sign_of_the_trained_factors_do_not_matter(seed: int) -> None:
    a, b = factors(seed)
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed + 1)).double()
    mix = mix + 2 * torch.eye(3) * torch.sign(torch.det(mix))
    if torch.linalg.cond(mix) > 50:
        return  # an ill-conditioned mix loses the digits that are compared
    one = in_gauge(a, b, canonical_gauge(a, b))
    a2, b2 = (mix @ a.double()).float(), (b.double() @ torch.linalg.inv(mix)).float()
    other = in_gauge(a2, b2, canonical_gauge(a2, b2))
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("case", ["b is zero", "b of rank 1", "a of rank 1", "both of rank 1", "wider than the matrix"])
def test_a_product_of_lower_rank_keeps_an_invertible_gauge(case: str) -> None:
    a, b = factors(0, 4, 6, 5)
    if "zero" in case:
        b = torch.zeros_like(b)
    if case in ("b of rank 1", "both of rank 1"):
        b = b[:, :1] @ b[:1]
    if case in ("a of rank 1", "both of rank 1"):
        a = a[:, :1] @ a[:1]
    if case == "wider than the matrix":
        a, b = factors(0, 4, 3, 2)
    gauge = canonical_gauge(a, b)
    torch.testing.assert_close(gauge.forward @ gauge.backward, torch.eye(4), rtol=1e-4, atol=1e-4)
    ours_a, ours_b = in_gauge(a, b, gauge)
    torch.testing.assert_close(ours_b @ ours_a, b @ a, rtol=1e-3, atol=1e-3)
    rank = int(torch.linalg.matrix_rank(b @ a))
    # Directions that the product does not have write nothing, or read nothing.
    assert (ours_a[rank:].norm(dim=1) * ours_b[:, rank:].norm(dim=0) < 1e-3).all()


def test_an_edit_moves_only_what_it_changes() -> None:
    a, b = factors(3)
    gauge = canonical_gauge(a, b)
    scalars = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    before = gauge.canonical(scalars)
    assert torch.equal(gauge.edited(scalars, before, before), scalars)
    assert torch.equal(gauge.edited(scalars, before, torch.zeros_like(before)), torch.zeros_like(scalars))
    without = before * torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(gauge.canonical(gauge.edited(scalars, before, without)), without, rtol=1e-4, atol=1e-4)
