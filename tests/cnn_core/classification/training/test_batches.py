from __future__ import annotations

import torch

from cnn_core.classification.training.batches import epoch_batches
from cnn_core.distributed import share
from cnn_core.seeds import generator, mixed_seed


def batches(**changes):
    return epoch_batches(**{"count": 10, "draws": 0, "batch_size": 4, "seed": 0, "epoch": 0} | changes)


def test_an_epoch_is_a_seeded_permutation_in_batches_of_nearly_one_size():
    first = batches()
    assert sorted(torch.cat(first).tolist()) == list(range(10))
    assert sorted(map(len, first)) == [3, 3, 4]  # not 4, 4 and a remainder of 2
    assert torch.equal(torch.cat(first), torch.cat(batches()))
    assert not torch.equal(torch.cat(first), torch.cat(batches(epoch=1)))
    assert not torch.equal(torch.cat(first), torch.cat(batches(seed=1)))


def test_draws_read_on_through_permutations_so_that_every_image_comes_equally_often():
    drawn = torch.cat([torch.cat(batches(draws=4, epoch=epoch)) for epoch in range(5)])
    assert len(drawn) == 20
    assert torch.bincount(drawn).tolist() == [2] * 10
    more = torch.cat(batches(draws=25))
    assert set(torch.bincount(more).tolist()) == {2, 3}


def test_the_ranks_share_every_batch_without_overlap():
    batch = torch.arange(7)
    parts = [share(batch, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(parts), batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_seeds_differ_by_what_they_are_for():
    seeds = {mixed_seed(*parts) for parts in [(0, 1), (1, 0), (0, "1"), (0, 1, 0), (0, 11), (0, 1, 1)]}
    assert len(seeds) == 6
    cpu = torch.device("cpu")
    assert torch.equal(torch.rand(3, generator=generator(cpu, 1, "a")), torch.rand(3, generator=generator(cpu, 1, "a")))
