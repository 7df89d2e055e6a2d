"""Two processes train a segmenter together as one does alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cnn_core.detection.yolo import quiet
from cnn_core.params import from_mapping
from cnn_core.segmentation.training.data import load_masks
from cnn_core.segmentation.training.embeddings import Embeddings
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.prompts import draw_prompts
from cnn_core.segmentation.training.train import SegmenterJob, train
from tests.helpers.mask_files import PARAMS, write_model, write_set
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What each rank left: alone, first of two, second of two."""
    folder = tmp_path_factory.mktemp("ranks")
    quiet(folder)
    write_set(folder / "set", train=7, val=3)
    write_model(folder / "model")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.helpers.sam_rank"]
    places = [(0, 1), (0, 2), (1, 2)]
    ranks = [subprocess.Popen([*command, str(r), str(w), str(folder)], env=environment) for r, w in places]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0, 0]
    return [torch.load(folder / f"{rank}-of-{world}.pt", weights_only=False) for rank, world in places]


@pytest.mark.slow
def test_the_decoder_learns_what_it_learns_alone(ended):
    """7 images in batches of 3, 2 and 2: of the first, one rank has 2, the other 1."""
    whole, one, two = (torch.cat([g.flatten() for g in left["decoder"]["gradients"]]) for left in ended)
    assert torch.equal(one, two)
    assert (one - whole).norm() < 1e-3 * whole.norm()
    alone, first, second = (left["decoder"]["checkpoint"] for left in ended)
    for name, value in first["learner"]["average"].items():
        assert torch.equal(value, second["learner"]["average"][name]), name
    # AdamW moves a weight whose gradient is nothing but rounding as far as any other.
    for one, two, whole in zip(*(run["history"] for run in (first, second, alone)), strict=True):
        for key in ("train_loss", "train_iou"):
            assert one[key] == two[key] == pytest.approx(whole[key], rel=0.02), key
    for key in ("val_iou", "val_iou_error"):
        assert first["history"][-1][key] == second["history"][-1][key]
        assert first["history"][-1][key] == pytest.approx(alone["history"][-1][key], abs=0.01)


@pytest.mark.slow
def test_each_image_is_embedded_by_one_of_them(ended):
    alone, first, second = (left["decoder"]["seen"] for left in ended)
    assert alone == 7 + 3
    assert (first, second) == (4 + 2, 3 + 1)


@pytest.mark.slow
def test_of_a_whole_network_the_ranks_end_with_one_set_of_weights_and_statistics(ended):
    _, first, second = (left["whole"]["checkpoint"]["learner"]["average"] for left in ended)
    assert any("running_mean" in name for name in first)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_who_is_done_first_waits_for_the_embeddings_of_the_other(tmp_path):
    data = load_masks(write_set(tmp_path / "set", train=5), "train", imgsz=64)

    def embedded(rank):
        def maps(images):
            time.sleep(0.5 * rank)
            return [images[:, :1, :2, :2].float()]

        learner = SimpleNamespace(device=torch.device("cpu"), maps=maps)
        return Embeddings(tmp_path / "run", "train", learner, data, local_rank=(rank, 2))[np.arange(5)][0]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(embedded, range(2)))
    assert all(torch.equal(one, torch.from_numpy(data.images[:, :1, :2, :2]).float()) for one in found)


def test_the_prompts_do_not_depend_on_the_number_of_ranks(tmp_path):
    data = load_masks(write_set(tmp_path, train=5), "train", imgsz=64)
    params = from_mapping(TrainSegmenterParams, {**PARAMS, "prompts": 3, "box_jitter": 0.1}, "train_segmenter")
    for points in (0.0, 1.0):
        whole, first, rest = (
            draw_prompts(params, data, np.array([4, 0, 2]), np.random.default_rng(0), points=points, part=part)
            for part in (slice(None), slice(0, 1), slice(1, 3))
        )
        assert first.rows.tolist() + rest.rows.tolist() == whole.rows.tolist()
        for name in ("images", "masks", "points" if points else "boxes"):
            assert torch.equal(torch.cat([getattr(first, name), getattr(rest, name)]), getattr(whole, name)), name


def test_a_batch_smaller_than_the_ranks_is_told(tmp_path, monkeypatch):
    quiet(tmp_path)
    source = write_set(tmp_path / "set", train=5)
    monkeypatch.setattr("cnn_core.segmentation.training.train.rank_and_world", lambda: (0, 20))
    params = from_mapping(TrainSegmenterParams, {**PARAMS, "source": str(source), "batch": 3}, "train_segmenter")
    job = SegmenterJob(params=params, source=str(source), start="none")
    with pytest.raises(ValueError, match="batches of 2 images cannot be shared by 20 workers; lower num_workers"):
        train(job, folder=tmp_path, device=torch.device("cpu"))
