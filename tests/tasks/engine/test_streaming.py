"""Training images by Ray Data: the right rows to the right rank, and the same outcome as from the mapped arrays."""

from __future__ import annotations

import functools
import itertools
import json
import time

import numpy as np
import pytest
import torch

from cnn_core.classification.training.batches import Feed
from cnn_core.data.augmented import arrays_writer
from tests.helpers.stages import curve, finish, plain, small_set, start, wait_for, worker_processes, write_params

EPOCHS = 6  # each begins a reading of Ray Data anew
COUNT = {"train": 1003, "val": 20, "test": 11}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def streaming():
    return pytest.importorskip("tasks.engine.streaming")


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A set whose labels are the numbers of its rows, through all splits, and whose pixels say the same."""
    folder, first = tmp_path_factory.mktemp("numbered") / "set", 0
    with arrays_writer(folder, name="numbered", classes="ab", shape=(3, 4, 4), copies=0) as writer:
        for split, count in COUNT.items():
            labels = np.arange(first, first + count)
            ids = [f"{split}/{row}" for row in range(count)]
            writer.add(split, ids, labels)[:] = (labels % 256).astype(np.uint8)[:, None, None, None]
            first += count
    return folder


def rows(spans):
    return [(split, row) for split, start_, stop in spans for row in range(start_, stop)]


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def test_a_pass_has_every_row_once_and_the_next_another_order(streaming, numbered):
    source = streaming.Rows(numbered, ("train", "val", "test"))
    count, every = source.count, rows(source.blocks)
    assert count == len(set(every)) == len(every) == sum(COUNT.values())
    passes = [rows(streaming.endless(source.blocks, 7, n * count, (n + 1) * count)) for n in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(every)
    assert passes[0] != passes[1] != every
    assert rows(streaming.endless(source.blocks, 8, 0, count)) != passes[0]


def test_the_pieces_of_the_row_join_without_a_seam(streaming, numbered):
    blocks = streaming.Rows(numbered, ("train",)).blocks
    whole = rows(streaming.endless(blocks, 7, 0, 2500))
    pieces = [rows(streaming.endless(blocks, 7, low, low + 500)) for low in range(0, 2500, 500)]
    assert joined(pieces) == whole


@pytest.mark.parametrize(("draws", "batch", "world"), [(1003, 64, 1), (1003, 64, 2), (1003, 64, 3), (7, 7, 7)])
def test_the_ranks_have_equally_many_batches_and_together_all_images(streaming, draws, batch, world):
    sizes = streaming.shares(draws, batch, world)
    assert sum(map(sum, sizes)) == draws
    assert {len(mine) for mine in sizes} == {-(-draws // batch)}
    for mine in sizes:
        assert max(mine) - min(mine) <= 1
    assert max(map(sum, zip(*sizes, strict=True))) < batch + 2 * world


def test_batches_are_cut_anew(streaming):
    source = [(torch.arange(a, b)[:, None], torch.arange(a, b)) for a, b in [(0, 4), (4, 5), (5, 12)]]
    cut = list(streaming.resized(source, [5, 1, 6]))
    assert [labels.tolist() for _, labels in cut] == [[0, 1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11]]
    assert all(torch.equal(images[:, 0], labels) for images, labels in cut)
    with pytest.raises(AssertionError, match="as many rows"):
        list(streaming.resized(source, [5, 8]))


def test_a_batch_smaller_than_the_ranks_is_told(streaming):
    stream = streaming.Stream(shard=None, count=100, image_bytes=16)
    call = {"draws": 0, "batch_size": 10, "seed": 0, "epoch": 0, "rank": 0, "device": CPU}
    with pytest.raises(ValueError, match="batches of 10 images cannot be shared by 11 workers; lower num_workers"):
        next(stream.epoch(**call, world=11))


@pytest.fixture
def own_ray():
    import dataclasses

    from tasks.engine.cluster import ray_cluster
    from tasks.engine.runtime import load_runtime

    with ray_cluster(dataclasses.replace(load_runtime(), ray_address="", feed="streamed", num_workers=(1, 1))):
        yield


def read(feed: Feed, **changes):
    """labels of each batch, and the global sizes; pixels are checked on the way."""
    call = {"draws": 0, "batch_size": 100, "seed": 3, "epoch": 0, "rank": 0, "world": 1, "device": CPU}
    labels, wholes = [], []
    for images, numbers, whole in feed.epoch(**call | changes):
        assert images.dtype == torch.uint8
        assert torch.equal(images, (numbers % 256).to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4))
        labels.append(numbers.tolist())
        wholes.append(whole)
    return labels, wholes


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_each_image_comes_exactly_once_an_epoch_over_all_ranks_shuffled_and_again_the_same(streaming, numbered):
    made = streaming.datasets(numbered, refit=True)
    train = streaming.Stream(shard=made["train"].iterator(), count=COUNT["train"], image_bytes=48)
    epochs = []
    for epoch in range(2):
        ranks = [read(train, world=2, rank=rank, epoch=epoch) for rank in range(2)]
        (first, wholes), (second, same) = ranks
        assert wholes == same == [len(a) + len(b) for a, b in zip(first, second, strict=True)]
        assert len(wholes) == 11
        epochs.append(joined(first) + joined(second))
        assert sorted(epochs[-1]) == list(range(COUNT["train"]))
        assert np.corrcoef(epochs[-1], range(COUNT["train"]))[0, 1] < 0.5
    assert epochs[0] != epochs[1]
    assert joined(read(train, world=2, epoch=1)[0]) == epochs[1][: len(epochs[1]) // 2 + 1]
    refit = streaming.Stream(shard=made["refit"].iterator(), count=sum(COUNT.values()), image_bytes=48)
    assert sorted(joined(read(refit)[0])) == list(range(sum(COUNT.values())))
    drawn = [joined(read(train, draws=500, epoch=epoch)[0]) for epoch in range(3)]
    assert list(map(len, drawn)) == [500, 500, 500]
    assert len(set(drawn[0] + drawn[1])) == 1000
    assert len(set(drawn[2])) > 490, "it goes on with another pass"


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_the_order_is_the_same_however_long_each_block_takes_to_read(streaming, numbered, monkeypatch):
    class Uneven(streaming.Rows):
        def get_read_tasks(self, *arguments, **options):
            tasks = super().get_read_tasks(*arguments, **options)
            from ray.data.datasource import ReadTask

            late_tasks = (functools.partial(late, task, index % 2) for index, task in enumerate(tasks))
            return [ReadTask(read, task.metadata) for read, task in zip(late_tasks, tasks, strict=True)]

    def late(task, delay):
        time.sleep(delay * 0.2)
        return list(task())

    def order():
        train = streaming.datasets(numbered, refit=False)["train"]
        return joined(read(streaming.Stream(shard=train.iterator(), count=COUNT["train"], image_bytes=48))[0])

    expected = order()
    monkeypatch.setattr(streaming, "Rows", Uneven)
    assert order() == expected


@pytest.mark.nightly
def test_a_streamed_training_ends_like_a_mapped_one(tmp_path):
    small_set(tmp_path)
    write_params(tmp_path, epochs=EPOCHS, refit="all")
    output = finish(start(tmp_path, GRIDFLOW_FEED="streamed", GRIDFLOW_NUM_WORKERS="2"))
    assert json.loads((tmp_path / "data/metrics/train-digits.json").read_text())["val_accuracy"] > 0.9, output
    write_params(tmp_path, epochs=EPOCHS)
    mapped, streamed = plain(tmp_path), curve(tmp_path)
    for one, other in zip(mapped, streamed, strict=True):
        assert one["epoch"] == other["epoch"]
        assert one["learning_rate"] == pytest.approx(other["learning_rate"], abs=1e-6)
    last = [mapped[-1], streamed[-1]]
    assert last[0]["val_accuracy"] == pytest.approx(last[1]["val_accuracy"], abs=0.05)
    assert last[0]["train_loss"] == pytest.approx(last[1]["train_loss"], rel=0.2)


@pytest.mark.nightly
def test_a_streamed_elastic_training_goes_on_without_a_worker_that_was_killed(tmp_path):
    small_set(tmp_path)
    write_params(tmp_path, epochs=EPOCHS)
    process = start(tmp_path, GRIDFLOW_FEED="streamed", GRIDFLOW_NUM_WORKERS="1-2")
    before = wait_for(process, f"epoch 3/{EPOCHS}")
    workers = worker_processes(process)
    assert f"training on {len(workers)} worker" in before
    workers[0].kill()
    output = finish(process)
    assert "a training worker died" in output
    assert "resuming at epoch" in output
    assert [row["epoch"] for row in curve(tmp_path)] == list(range(1, EPOCHS + 1))
    assert curve(tmp_path)[-1]["val_accuracy"] > 0.9
