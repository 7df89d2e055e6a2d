"""Objects followed through a video by SAM 2: as Ultralytics does it; later objects, and backwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cnn_core.annotations.masks import decode_mask
from cnn_core.detection.yolo import quiet
from cnn_core.images.decoding import BadImage
from cnn_core.segmentation.params import VideoParams
from cnn_core.segmentation.segments import HIDDEN
from cnn_core.segmentation.video.prompts import VideoPrompt
from cnn_core.segmentation.video.segmenter import VideoSegmenter
from tests.helpers.examples import run_examples
from tests.helpers.sam_files import write_sam
from tests.helpers.video_files import SIDE, clips, frames, small_sam2, video_params, write_folder, write_video

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _quiet(tmp_path_factory) -> None:
    quiet(tmp_path_factory.mktemp("ultralytics"))


@pytest.fixture(scope="module")
def loaded():
    return small_sam2()


@pytest.fixture(scope="module")
def segmenter(loaded, tmp_path_factory):
    return VideoSegmenter(loaded, video_params(), device=CPU, settings=tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("clip") / "images", frames(9)[0])


def boxes_of(count: int, frame: int = 0, objects: int = 2, **more) -> list[VideoPrompt]:
    where = frames(count)[1][frame]
    return [VideoPrompt(frame=frame, object_id=7 + n, box=tuple(where[n]), **more) for n in range(objects)]


def masks(found) -> dict[int, np.ndarray]:
    segments = found.segments
    size = (segments.height, segments.width)
    pairs = zip(segments.prompts, segments.masks, strict=True)
    return {int(name): decode_mask(rle, *size) for name, rle in pairs}


class Kept(VideoSegmenter):
    """Keeps the logits of every frame."""

    def _segments(self, shape, seen, dropped):
        self.__dict__.setdefault("logits", []).append({name: one.logits.clone() for name, one in seen.items()})
        return super()._segments(shape, seen, dropped)


def reference(network, video, *, side, whole_memory, **prompts):
    """Ultralytics' own predictor: of each frame the logits (objects, h, w) and the masks (objects, H, W)."""
    from ultralytics.models.sam import SAM2VideoPredictor

    logits = []

    class Predictor(SAM2VideoPredictor):
        def inference(self, *arguments, **named):
            answer = super().inference(*arguments, **named)
            logits.append(answer[0].clone())
            return answer

    own = vars(network.sam_mask_decoder).pop("predict_masks", None)  # the reference has nothing of ours
    predictor = Predictor(overrides={"save": False, "verbose": False, "imgsz": side, "device": "cpu", "conf": 0.25})
    predictor.clear_non_cond_mem = not whole_memory
    network.set_binarize(True)
    predictor.setup_model(network, verbose=False)
    results = [result.cpu().numpy() for result in predictor(source=str(video), stream=True, **prompts)]
    if own is not None:
        network.sam_mask_decoder.predict_masks = own
    return logits, [result.masks.data.astype(bool) for result in results]


def agree(loaded, folder, count, *, side, whole_memory=False, tolerance=1e-4, given="boxes"):
    images, where = frames(count, 3 * side // 4, side)
    video = write_video(folder / "clip.avi", images)
    centres = (where[0, :, :2] + where[0, :, 2:]) / 2
    if given == "boxes":
        prompts = [VideoPrompt(frame=0, object_id=n, box=tuple(where[0, n])) for n in range(2)]
        theirs = {"bboxes": where[0]}
    else:
        prompts = [
            VideoPrompt(frame=0, object_id=n, points=(tuple(centres[n]), (1.0, 1.0)), labels=(1, 0)) for n in range(2)
        ]
        theirs = {"points": np.stack([centres, np.ones_like(centres)], 1), "labels": np.array([[1, 0]] * 2)}
    logits, expected = reference(loaded.network, video, side=side, whole_memory=whole_memory, **theirs)
    params = video_params(imgsz=side, memory_frames=16 if whole_memory else 8)
    segmenter = Kept(loaded, params, device=CPU, settings=folder)
    (clip,) = clips(video)
    found = list(segmenter.track(clip, prompts))
    assert len(found) == len(expected) == count
    for number, (one, masks_there) in enumerate(zip(found, expected, strict=True)):
        ours = torch.cat([segmenter.logits[number][n][0] for n in range(2)])
        assert (ours - logits[number]).abs().max() < tolerance, number
        assert logits[number].max() > 0 > logits[number].min()
        own = masks(one)
        shown = np.stack([own.get(n, np.zeros(images[0].shape[:2], bool)) for n in range(2)])
        large = torch.stack(list(segmenter.steps.in_original(ours, images[0].shape[:2])))
        drawn = (large[0] - large[1]).abs().numpy() < tolerance / 4  # either may have such a pixel
        assert np.array_equal(shown & ~drawn, masks_there & ~drawn), number
        assert np.array_equal(shown.any(0), masks_there.any(0)), number
        assert drawn.mean() < 0.05


@pytest.mark.parametrize(
    ("version", "given", "count", "whole_memory"),
    [("sam2.1", "boxes", 12, False), ("sam2", "points", 5, False), ("sam2.1", "boxes", 17, True)],
)
def test_it_is_what_ultralytics_gives(tmp_path, version, given, count, whole_memory):
    agree(small_sam2(version=version), tmp_path, count, side=SIDE, given=given, whole_memory=whole_memory)


@pytest.mark.slow
def test_the_tiny_official_network_is_what_ultralytics_gives(tmp_path):
    """At a quarter of its input's side, which takes a hundredth of the time."""
    from cnn_core.segmentation.sam.network import load_sam

    loaded = load_sam(write_sam(tmp_path, "sam2.1_t"))
    agree(loaded, tmp_path, 5, side=256)


def test_every_object_is_told_of_in_every_frame(segmenter, folder):
    (clip,) = clips(folder)
    found = list(segmenter.track(clip, boxes_of(9)))
    assert [one.frame.number for one in found] == list(range(9))
    assert [one.frame.image_id for one in found] == [f"frame{n}" for n in range(9)]  # not 0, 1, 10, 11, 2
    for one in found:
        assert sorted([*one.segments.prompts, *one.segments.dropped]) == [7, 8]
        assert one.segments.stability.min() >= 0
        assert 0 < one.segments.scores.min() <= one.segments.scores.max() <= 1
    again = list(segmenter.track(clip, boxes_of(9)))
    assert [one.segments.masks for one in again] == [one.segments.masks for one in found]


def test_masks_of_objects_share_no_pixel_unless_they_may(loaded, folder, tmp_path):
    (clip,) = clips(folder)
    apart, over = (
        list(
            VideoSegmenter(loaded, video_params(non_overlap_masks=way), device=CPU, settings=tmp_path).track(
                clip, boxes_of(9)
            )
        )
        for way in (True, False)
    )
    for one, other in zip(apart, over, strict=True):
        own, free = masks(one), masks(other)
        assert sum(mask.astype(int) for mask in own.values()).max() == 1
        assert np.array_equal(sum(own.values()) > 0, sum(free.values()) > 0)
    assert any(sum(mask.astype(int) for mask in masks(one).values()).max() == 2 for one in over)


def test_an_object_does_not_depend_on_the_others(loaded, folder, tmp_path):
    params = video_params(non_overlap_masks=False)
    segmenter = VideoSegmenter(loaded, params, device=CPU, settings=tmp_path)
    (clip,) = clips(folder)
    first, second = boxes_of(9)
    late = VideoPrompt(frame=5, object_id=9, box=second.box)
    both = list(segmenter.track(clip, [late, first]))
    alone = list(segmenter.track(clip, [first]))
    for one, other in zip(both, alone, strict=True):
        assert masks(one)[7].tolist() == masks(other)[7].tolist()


def test_a_late_object_is_followed_both_ways(loaded, folder, tmp_path):
    (clip,) = clips(folder)
    prompts = boxes_of(9, frame=6, objects=1)
    both = list(VideoSegmenter(loaded, video_params(), device=CPU, settings=tmp_path).track(clip, prompts))
    forwards = list(
        VideoSegmenter(loaded, video_params(backwards=False), device=CPU, settings=tmp_path).track(clip, prompts)
    )
    assert [len(one.segments) for one in forwards] == [0] * 6 + [1] * 3
    assert [len(one.segments) for one in both] == [1] * 9
    for one, other in zip(both[6:], forwards[6:], strict=True):
        assert masks(one)[7].tolist() == masks(other)[7].tolist()


def test_backwards_is_forwards_through_the_clip_turned_round(loaded, tmp_path):
    """By signs of time alone: SAM 2.1 tells times with their sign, SAM 2 without, and both look into the past only."""
    images, where = frames(14)
    (there,) = clips(write_folder(tmp_path / "there", images))
    (back,) = clips(write_folder(tmp_path / "back", images[::-1]))
    segmenter = Kept(loaded, video_params(), device=CPU, settings=tmp_path / "s")
    box = tuple(where[13, 0])
    list(segmenter.track(there, [VideoPrompt(frame=13, object_id=1, box=box)]))
    first, segmenter.logits = [one[1] for one in segmenter.logits], []
    list(segmenter.track(back, [VideoPrompt(frame=0, object_id=1, box=box)]))
    second = [one[1] for one in segmenter.logits][::-1]
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        near = other > -8  # what is further away from a mask is not kept
        assert (one - other)[near].abs().max() < 1e-4, number
        assert (one[~near] <= -8).all()


def test_a_clip_is_read_backwards_in_pieces(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("cnn_core.images.clips.CHUNK", 5)
    video = write_video(tmp_path / "clip.avi", frames(9)[0])
    for source in (folder, video):
        (clip,) = clips(source)
        there = {frame.number: frame.image for frame in clip}
        for last in (0, 4, 5, 8):
            back = list(clip.backwards(last, lambda frame: frame))
            assert [frame.number for frame in back] == list(range(last, -1, -1))
            assert all(np.array_equal(frame.image, there[frame.number]) for frame in back)


def test_a_memory_holds_what_is_looked_at(loaded, folder, tmp_path):
    (clip,) = clips(folder)
    where = frames(9)[1]
    prompts = [VideoPrompt(frame=n, object_id=1, box=tuple(where[n, 0])) for n in (0, 2, 4, 6)]
    params = video_params(max_cond_frames_in_attn=2, memory_frames=4)
    segmenter = VideoSegmenter(loaded, params, device=CPU, settings=tmp_path)
    states = [one.states for one in segmenter.track(clip, prompts)]
    assert states == [1, 2, 3, 4, 4, 4, 4, 4, 5]  # the last two prompted ones, and those of the last four that are not


def test_an_object_that_stays_hidden_is_given_up(loaded, folder, tmp_path):
    class Blind(VideoSegmenter):
        def _visible(self, seen):
            return False

    (clip,) = clips(folder)
    segmenter = Blind(loaded, video_params(patience=3), device=CPU, settings=tmp_path)
    found = list(segmenter.track(clip, boxes_of(9, objects=1)))
    assert [one.segments.dropped for one in found] == [{7: HIDDEN}] * 4 + [{}] * 5
    assert [one.states for one in found[:4]] == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((70, 5, 90, 20), "outside the image"),
        ((5, 5, 5, 20), "box without an area"),
        ((-30, -30, -5, -5), "outside the image"),
    ],
)
def test_a_prompt_without_a_mask_says_why(segmenter, folder, box, reason):
    (clip,) = clips(folder)
    found = list(segmenter.track(clip, [VideoPrompt(frame=2, object_id=3, box=box), *boxes_of(9, objects=1)]))
    assert found[2].segments.dropped == {3: reason}
    assert [list(one.segments.prompts) for one in found] == [[7]] * 9


def test_prompts_that_make_no_sense_are_refused(segmenter, folder):
    (clip,) = clips(folder)
    for prompts, reason in (
        ([VideoPrompt(frame=-1, object_id=1, box=(0, 0, 9, 9))], "numbered from 0"),
        ([VideoPrompt(frame=1, object_id=1, box=(0, 0, 9, 9))] * 2, "object 1 has two prompts in frame 1"),
        ([VideoPrompt(frame=0, object_id=1)], "neither|boxes, points or both"),
    ):
        with pytest.raises(ValueError, match=reason):
            list(segmenter.track(clip, prompts))


def test_a_frame_that_cannot_be_read_is_passed_over(segmenter, tmp_path):
    folder = write_folder(tmp_path / "clip", frames(6)[0])
    (folder / "frame3.png").write_bytes(b"no image")
    (clip,) = clips(folder)
    found = list(segmenter.track(clip, boxes_of(6)))
    assert [one.segments is None for one in found] == [False] * 3 + [True] + [False] * 2
    assert isinstance(found[3].frame.image, BadImage)
    assert len(found[4].segments) + len(found[4].segments.dropped) == 2


def test_no_prompts_cost_nothing(segmenter, folder, monkeypatch):
    monkeypatch.setattr(segmenter.steps, "encode", None)  # not called
    (clip,) = clips(folder)
    assert [len(one.segments) for one in segmenter.track(clip, [])] == [0] * 9


def test_sam_without_a_memory_is_refused(loaded, tmp_path):
    import dataclasses

    first = dataclasses.replace(loaded, family="sam", name="mobile_sam")
    with pytest.raises(ValueError, match=r"mobile_sam has no memory.* name weights of SAM 2"):
        VideoSegmenter(first, video_params(), device=CPU, settings=tmp_path)


def test_grey_frames_of_a_folder_are_read(segmenter, tmp_path):
    import cv2

    folder = tmp_path / "grey"
    folder.mkdir()
    for number, image in enumerate(frames(3)[0]):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., 0])
    (clip,) = clips(folder)
    assert [len(one.segments) + len(one.segments.dropped) for one in segmenter.track(clip, boxes_of(3))] == [2, 2, 2]


def test_the_examples_of_the_docstring_run(tmp_path):
    write_video(tmp_path / "clip.avi", frames(3, objects=1)[0])
    run_examples(
        VideoSegmenter,
        tmp_path,
        VideoSegmenter=VideoSegmenter,
        VideoParams=VideoParams,
        torch=torch,
        weights=small_sam2(),
    )
