"""Training of a promptable segmenter: what it is given, what it changes, what it leaves, and that it learns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cnn_core.annotations.coco import to_coco
from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import read_objects, write_objects
from cnn_core.detection.yolo import quiet
from cnn_core.params import from_mapping
from cnn_core.segmentation.inference.segmenter import Segmenter
from cnn_core.segmentation.params import EverythingParams, SegmenterParams
from cnn_core.segmentation.sam.decoder import predict_masks
from cnn_core.segmentation.sam.network import load_sam
from cnn_core.segmentation.sam.params import SmallSamParams
from cnn_core.segmentation.sam.small import build_small_sam
from cnn_core.segmentation.training.data import content_sha256, load_masks, read_masks
from cnn_core.segmentation.training.forward import decode, encode
from cnn_core.segmentation.training.learner import SamLearner
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.prompts import draw_prompts, sample_pictures
from cnn_core.segmentation.training.train import SegmenterJob, final_state, start_network, train
from tests.helpers.mask_files import CLASSES, MODEL, PARAMS, picture, write_set
from tests.helpers.sam_files import write_sam

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def settings(tmp_path_factory):
    quiet(tmp_path_factory.mktemp("settings"))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"))


def parameters(**changes) -> TrainSegmenterParams:
    return from_mapping(TrainSegmenterParams, {**PARAMS, **changes}, "train_segmenter")


def trained(source, folder, *, resume=None, **changes):
    """All checkpoints of a training."""
    params = parameters(source=str(source), **changes)
    start = params.weights if params.weights == "none" else str(params.weights)
    job = SegmenterJob(params=params, source=str(source), start=start)
    kept: list[dict] = []
    train(job, folder=folder, device=CPU, resume=resume, on_epoch=lambda _, make: kept.append(json_like(make())))
    return job, kept


def json_like(checkpoint):
    """A copy, as a file would give it back."""
    return torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, checkpoint)


def test_a_tiny_network_learns_a_few_images_by_heart_and_a_segmenter_loads_it(source, tmp_path):
    # Single steps on four images; what is learned is measured by the product's own predictor.
    job, kept = trained(source, tmp_path, epochs=60, val_every=60, learning_rate=0.01, batch=4, box_jitter=0.0)
    _, state = final_state(job, kept[-1])
    folder = tmp_path / "segmenter"
    folder.mkdir()
    torch.save(state, folder / "model.pt")
    card = {"imgsz": 64, "model": dataclasses.asdict(job.params.model)}
    (folder / "model.json").write_text(json.dumps(card))

    everything = EverythingParams(
        points_stride=4,
        conf_thres=0,
        stability_score_thresh=0,
        stability_score_offset=0.95,
        iou=0.7,
        crop_n_layers=0,
        crop_overlap_ratio=0.3,
        crop_downscale_factor=1,
        crop_nms_thresh=0.7,
        min_mask_region_area=0,
    )
    asked = SegmenterParams(imgsz=0, conf=0.0, multimask_output=False, half=False, everything=everything)
    segmenter = Segmenter(folder, asked, device=CPU, settings=tmp_path)
    assert (segmenter.loaded.name, segmenter.loaded.family, segmenter.steps.side) == ("small_sam", "sam", 64)
    data = load_masks(source, "train", imgsz=64)
    overlaps = []
    for row in range(len(data)):
        objects = range(data.first[row], data.first[row + 1])
        embedding = segmenter.embed(data.images[row].transpose(1, 2, 0)[..., ::-1])
        prompts = segmenter.masks(embedding, boxes=data.boxes[objects])
        truth = data.masks(objects) > 0
        for number, rle in zip(prompts.prompts, prompts.masks, strict=True):
            mask = decode_mask(rle, 64, 64)
            overlaps.append((mask & truth[number]).sum() / (mask | truth[number]).sum())
    assert len(overlaps) == 8
    assert np.mean(overlaps) > 0.8
    assert kept[-1]["history"][-1]["train_iou"] > 0.8


def test_an_interrupted_training_ends_as_an_uninterrupted_one(source, tmp_path):
    _, whole = trained(source, tmp_path / "a", epochs=3, points=0.5)
    _, rest = trained(source, tmp_path / "b", epochs=3, points=0.5, resume=whole[0])
    assert [record["epoch"] for record in rest[-1]["history"]] == [1, 2, 3]
    for name, value in whole[-1]["learner"]["average"].items():
        assert torch.equal(value, rest[-1]["learner"]["average"][name]), name
    assert trained(source, tmp_path / "c", epochs=3, points=0.5, resume=whole[-1])[1] == []


def test_prompts_of_several_images_are_decoded_as_those_of_each(source):
    torch.manual_seed(0)
    network = build_small_sam(from_mapping(SmallSamParams, MODEL, "model"), 64)
    pixels, boxes = torch.randn(2, 3, 64, 64), 10 + 20 * torch.rand(6, 4)
    with torch.inference_mode():
        together = decode(network, "sam", encode(network, "sam", pixels), boxes, None)
        for image in range(2):
            mine = slice(3 * image, 3 * image + 3)
            alone = decode(network, "sam", encode(network, "sam", pixels[image : image + 1]), boxes[mine], None)
            for one, other in zip(together, alone, strict=True):
                assert torch.allclose(one[mine], other, atol=1e-5)


def test_the_decoder_without_fine_features_is_ultralytics_own(source):
    from ultralytics.models.sam.modules.decoders import MaskDecoder

    torch.manual_seed(0)
    network = build_small_sam(from_mapping(SmallSamParams, MODEL, "model"), 64)
    with torch.inference_mode():
        embedding = network.image_encoder(torch.randn(1, 3, 64, 64))["image_embed"]
        sparse, dense = network.prompt_encoder(points=None, boxes=10 + 20 * torch.rand(3, 4), masks=None)
        given = {
            "image_embeddings": embedding,
            "image_pe": network.prompt_encoder.get_dense_pe(),
            "sparse_prompt_embeddings": sparse,
            "dense_prompt_embeddings": dense,
        }
        ours = predict_masks(network.mask_decoder, **given)
        theirs = MaskDecoder.predict_masks(network.mask_decoder, **given)
    assert ours[0].shape == (3, 4, 16, 16)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(ours, theirs, strict=True))


def test_a_frozen_encoder_stays_as_it_is_and_sees_each_image_once(source, tmp_path, monkeypatch):
    first, kept = trained(source, tmp_path / "a", epochs=1)
    _, state = final_state(first, kept[-1])
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(state, folder / "model.pt")
    (folder / "model.json").write_text(json.dumps({"imgsz": 64, "model": dataclasses.asdict(first.params.model)}))

    seen = []
    plain = SamLearner.maps
    monkeypatch.setattr(SamLearner, "maps", lambda self, images: seen.append(len(images)) or plain(self, images))
    changes = {"weights": str(folder), "imgsz": 0, "epochs": 3}
    job, kept = trained(source, tmp_path / "b", **changes)
    assert sum(seen) == 6  # 4 of train and 2 of val, in three epochs
    trained(source, tmp_path / "b", resume=kept[0], **changes)
    assert sum(seen) == 6
    _, after = final_state(job, kept[-1])
    changed = {name.split(".")[0] for name in state if not torch.equal(state[name], after[name])}
    assert changed == {"mask_decoder"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "imgsz"), [("mobile_sam", 64), ("sam2.1_t", 64)])
def test_official_checkpoints_are_fine_tuned_and_stay_official(source, tmp_path, name, imgsz):
    path = write_sam(tmp_path, name)
    job, kept = trained(source, tmp_path / "run", weights=str(path), imgsz=imgsz, epochs=1, points=0.5)
    _, state = final_state(job, kept[-1])
    (tmp_path / "out").mkdir()
    torch.save(state, tmp_path / "out/model.pt")
    (tmp_path / "out/model.json").write_text(json.dumps({"imgsz": imgsz, "model": {}}))
    again = load_sam(tmp_path / "out")
    assert (again.name, again.imgsz) == (name, imgsz)
    before, after = load_sam(path).network.state_dict(), again.network.state_dict()
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert changed
    assert all("mask_decoder" in key and "conv_s" not in key for key in changed)


def test_images_of_any_shape_are_fitted_and_objects_without_a_mask_left_out(tmp_path):
    folder = write_set(tmp_path, height=40, width=100)
    objects = read_objects(folder / "objects.parquet")
    objects.loc[0, "rle"] = None
    write_objects(folder / "objects.parquet", objects)
    data = load_masks(folder, "train", imgsz=64)
    assert data.images.shape == (4, 3, 64, 64)
    assert data.left_out == 1
    assert data.first.tolist() == [0, 1, 3, 5, 7]
    for row, (x1, y1, x2, y2) in zip(data.masks(range(7)), data.boxes, strict=True):
        ys, xs = np.nonzero(row)
        assert np.allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x1, y1, x2, y2], atol=1.5)
    assert (data.images[:, :, 26:] == 114).all()


def test_images_that_cannot_be_decoded_are_left_out_and_told(tmp_path):
    folder = write_set(tmp_path / "set", train=6, val=3)
    cut, small, gone = (folder / f"images/train/p{number}.png" for number in range(3))
    cut.write_bytes(cut.read_bytes()[:500])
    small.write_bytes((folder / "images/val/p6.png").read_bytes()[:40])
    gone.unlink()
    (folder / "images/val/p6.png").write_text("no image")
    job, kept = trained(folder, tmp_path, epochs=1)
    assert {Path(file).name for file in kept[-1]["left_out"]} == {"p0.png", "p1.png", "p2.png", "p6.png"}
    assert all(kept[-1]["left_out"].values())
    data = load_masks(folder, "train", imgsz=64)
    assert (data.ids, len(data.boxes)) == (["p3", "p4", "p5"], 6)
    pixels = picture(3)[0].transpose(2, 0, 1)
    assert (data.images[0] == pixels).all()
    assert len(load_masks(folder, "train", imgsz=64, most=2)) == 2  # although the first three are bad
    assert content_sha256({split: read_masks(folder, split) for split in ("train", "val")})
    assert sample_pictures(job.params)[1] == [["box"] * 3]
    for number in (3, 4, 5):
        (folder / f"images/train/p{number}.png").write_bytes(cut.read_bytes())
    with pytest.raises(ValueError, match=r"none of the 6 images of the split train .*p0\.png: damaged image"):
        trained(folder, tmp_path / "none", epochs=1)


def test_the_hash_of_a_set_follows_the_pixels_of_its_images(tmp_path):
    folder = write_set(tmp_path / "set")

    def digest() -> str:
        return content_sha256({split: read_masks(folder, split) for split in ("train", "val")})

    before = digest()
    assert digest() == before
    image = next(folder.rglob("*.png"))
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(data)  # as long as before
    assert digest() != before


def test_a_coco_json_alone_gives_a_tenth_to_val(source, tmp_path):
    images, objects, classes = read_masks(source, "train")
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(to_coco(images.assign(file=[str(f) for f in images["file"]]), objects, classes)))
    parts = {split: read_masks(path, split) for split in ("train", "val")}
    assert {split: len(part[0]) for split, part in parts.items()} == {"train": 3, "val": 1}
    assert parts["val"][2] == CLASSES


def test_prompts_lie_where_the_masks_are_and_mirror_with_them(source):
    data = load_masks(source, "train", imgsz=64)
    rows, which = np.arange(4), torch.tensor([True, False, True, False])
    for points in (0.0, 1.0):
        draws = np.random.default_rng(0)
        batch = draw_prompts(parameters(prompts=3, box_jitter=0.0), data, rows, draws, points=points)
        for some in (batch, batch.mirrored(which)):
            for number, mask in enumerate(some.masks):
                ys, xs = np.nonzero(mask.numpy())
                if points:
                    x, y = some.points[number, 0].int().tolist()
                    assert mask[y, x] or mask[y, x - 1]  # a mirrored pixel's left edge is its right one
                else:
                    tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                    assert some.boxes[number].tolist() == tight
        flipped = batch.mirrored(which)
        assert torch.equal(flipped.images[0].flip(2), batch.images[0])
        assert torch.equal(flipped.images[1], batch.images[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"freeze": "encoder"}, "freeze"),
        ({"imgsz": 0}, "imgsz"),
        ({"imgsz": 50}, "multiple of 32"),
        ({"model": {**MODEL, "dim": 20}}, "dim"),
        ({"model": {**MODEL, "widths": (8, 12, 16, 16)}}, "head_width"),
    ],
)
def test_what_does_not_fit_is_said(changes, words):
    with pytest.raises(ValueError, match=words):
        parameters(**changes)


def test_a_small_sam_without_its_sizes_is_said(tmp_path):
    network = build_small_sam(from_mapping(SmallSamParams, MODEL, "model"), 64)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=r"model\.json"):
        load_sam(tmp_path / "mine.pt")


def test_a_picture_has_what_it_says():
    image, masks = picture(0)
    assert all(image[mask].min() > 140 for mask in masks)
    assert start_network(parameters(), "none").imgsz == 64
