"""A digit that moves through 100 frames keeps its identity; 500 frames need no more memory than 100."""

from __future__ import annotations

import gc

import cv2
import numpy as np
import psutil
import pytest
import torch

from cnn_core.annotations.masks import decode_mask, mask_box
from cnn_core.detection.yolo import quiet
from cnn_core.segmentation.video.prompts import VideoPrompt
from cnn_core.segmentation.video.segmenter import VideoSegmenter
from tests.helpers.paths import ROOT
from tests.helpers.video_files import clips, small_sam2, video_params, write_folder

CPU = torch.device("cpu")
OFFICIAL = ROOT / "data/weights/sam2.1_t.pt"


@pytest.fixture(scope="module", autouse=True)
def _quiet(tmp_path_factory) -> None:
    quiet(tmp_path_factory.mktemp("ultralytics"))


def moving_digits(count: int, side: int = 256, digits: str = "37") -> tuple[list[np.ndarray], np.ndarray]:
    """Digits composed onto a ground, that cross it side by side on curves and never meet: BGR frames (side, side, 3)
    and the truth, bool (count, len(digits), side, side)."""
    draws = np.random.default_rng(0)
    ground = cv2.resize(draws.integers(60, 140, (8, 8, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    images, truth = [], np.zeros((count, len(digits), side, side), bool)
    for number in range(count):
        image = ground.copy()
        share = number / count
        for place, digit in enumerate(digits):
            x = int(side * (0.05 + 0.7 * share))
            y = int(side * ((place + 0.75) / len(digits) + 0.06 * np.sin(6 * share + place)))
            mask = np.zeros((side, side), np.uint8)
            cv2.putText(mask, digit, (x, y), cv2.FONT_HERSHEY_DUPLEX, side / 100, 255, side // 40)
            truth[number, place] = mask > 127
            image[truth[number, place]] = ((30, 230, 230), (240, 240, 240), (60, 60, 230))[place % 3]
        images.append(image)
    return images, truth


def prompted(truth: np.ndarray, ids: tuple[int, ...]) -> list[VideoPrompt]:
    return [VideoPrompt(frame=0, object_id=name, box=mask_box(mask)) for name, mask in zip(ids, truth[0], strict=True)]


@pytest.mark.slow
def test_identities_stay_through_100_frames(tmp_path):
    """Random weights know no digit; which rows there are, and whose is whose, do not depend on it."""
    images, truth = moving_digits(100, side=64)
    (clip,) = clips(write_folder(tmp_path / "clip", images))
    segmenter = VideoSegmenter(
        small_sam2(), video_params(non_overlap_masks=False), device=CPU, settings=tmp_path / "settings"
    )
    found = list(segmenter.track(clip, prompted(truth, (41, 7))))
    assert [one.frame.image_id for one in found] == [f"frame{number}" for number in range(100)]
    for one in found:
        assert list(one.segments.prompts) == [7, 41]  # one row each, in order
        assert one.segments.dropped == {}
        assert min(one.segments.areas) > 0
    first, _ = prompted(truth, (41, 7))
    for one, alone in zip(found, segmenter.track(clip, [first]), strict=True):  # 41 is whom it was said to be, always
        assert one.segments.masks[1] == alone.segments.masks[0]
    assert found[-1].segments.masks[0] != found[-1].segments.masks[1]


@pytest.mark.nightly
def test_500_frames_need_no_more_memory_than_100(tmp_path):
    images, truth = moving_digits(25, side=64)
    (clip,) = clips(write_folder(tmp_path / "clip", images * 21))
    late = VideoPrompt(frame=60, object_id=3, box=mask_box(truth[10, 0]))
    again = [VideoPrompt(frame=n, object_id=1, box=mask_box(truth[n % 25, 0])) for n in range(50, 500, 50)]
    segmenter = VideoSegmenter(small_sam2(), video_params(), device=CPU, settings=tmp_path / "settings")
    process, used, states, seen = psutil.Process(), {}, {}, 0
    for one in segmenter.track(clip, [*prompted(truth, (1, 2)), late, *again]):
        seen += 1
        number, states[one.frame.number] = one.frame.number, one.states
        if number in (100, 300, 500):
            gc.collect()
            used[number] = process.memory_info().rss / 1e6
    assert seen == 525
    assert max(list(states.values())[100:]) <= 3 * 8 + 4 + 1 + 1  # 8 frames of each, and those with a prompt
    assert states[524] == states[424]
    print(used)
    assert used[500] - used[100] < 15, (
        used
    )  # a state of this small network is 20 kB: 400 frames of three would be 24 MB
    assert used[300] - used[100] < 15, used


@pytest.mark.slow
@pytest.mark.skipif(not OFFICIAL.is_file(), reason="no data/weights/sam2.1_t.pt: `gridflow fetch sam2.1_t.pt`")
def test_official_weights_follow_two_digits_through_100_frames(tmp_path):
    images, truth = moving_digits(100)
    (clip,) = clips(write_folder(tmp_path / "clip", images))
    segmenter = VideoSegmenter(OFFICIAL, video_params(), device=CPU, settings=tmp_path / "settings")
    for number, one in enumerate(segmenter.track(clip, prompted(truth, (1, 2)))):
        assert list(one.segments.prompts) == [1, 2], number
        for mask, there in zip(one.segments.masks, truth[number], strict=True):
            own = decode_mask(mask, *there.shape)
            assert (own & there).sum() / (own | there).sum() >= 0.8, number
