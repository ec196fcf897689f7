from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.pairing import pair_across_people
from trt_facefusion.faces.split import find_smallest_distance, group_identities, split_by_identity


def people(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings in shuffled order, and who each shows: people are 1.4 apart, photos of one person under 0.1."""
    rng = np.random.default_rng(seed)
    who = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (np.eye(len(sizes))[who] + rng.uniform(-0.01, 0.01, (len(who), len(sizes)))).astype(np.float32), who


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=40), seed=st.integers(0, 99))
def test_nobody_is_on_both_sides(sizes: list[int], seed: int) -> None:
    embeddings, who = people(sizes, seed)
    try:
        calibration, verification = split_by_identity(embeddings, seed=seed)
    except FacesError:
        assert min(sizes) > max(1, len(who) // 5, min(8, len(who) // 2)), "someone was small enough to hold out"
        return
    assert sorted([*calibration, *verification]) == list(range(len(who)))
    assert not set(who[calibration]) & set(who[verification])
    assert 0 < len(verification) <= len(calibration)


def test_the_split_repeats_and_follows_the_seed() -> None:
    embeddings, _ = people([2] * 50)
    first, again, other = (split_by_identity(embeddings, seed=seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 20


def test_a_small_folder_still_verifies_on_eight() -> None:
    assert [len(side) for side in split_by_identity(people([1] * 32)[0])] == [24, 8]
    assert [len(side) for side in split_by_identity(people([1] * 6)[0])] == [3, 3]


def test_look_alikes_in_a_chain_are_one_group_until_the_distance_is_tightened() -> None:
    chain = np.array([[0.45 * i, 0] for i in range(40)], np.float32)
    assert len(group_identities(chain, 0.5)) == 1
    calibration, verification = split_by_identity(chain)
    assert len(verification) == 8
    assert find_smallest_distance(chain[calibration], chain[verification]) == pytest.approx(0.45, abs=1e-3)


def test_one_person_alone_cannot_be_split() -> None:
    with pytest.raises(FacesError, match="one person") as caught:
        split_by_identity(people([40, 0])[0])
    assert "--eval" in caught.value.remedy


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=6, max_size=30), seed=st.integers(0, 99))
def test_every_target_gets_another_person_and_every_source_serves_once(sizes: list[int], seed: int) -> None:
    embeddings, who = people(sizes)
    pairs = pair_across_people(embeddings, seed)
    assert (who[pairs] != who).all()
    assert pairs.tolist() == pair_across_people(embeddings, seed).tolist()
    if max(sizes) <= len(who) // 4:
        assert sorted(pairs) == list(range(len(who)))


def test_where_one_person_prevails_sources_are_used_again() -> None:
    embeddings, who = people([9, 1])
    pairs = pair_across_people(embeddings, 0)
    assert (who[pairs] != who).all()


def test_copies_of_one_picture_are_still_paired_with_another_index() -> None:
    pairs = pair_across_people(np.ones((3, 4), np.float32), 0)
    assert (pairs != np.arange(3)).all()
    with pytest.raises(FacesError, match="two people"):
        pair_across_people(np.ones((1, 4), np.float32), 0)
