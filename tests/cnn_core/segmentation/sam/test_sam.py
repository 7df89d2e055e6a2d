"""Checkpoints of SAM: told by their content, read without executing it; the networks that Ultralytics would build."""

from __future__ import annotations

import argparse
import io
import json
import pickle
from pathlib import Path

import pytest
import torch

from cnn_core.detection.yolo import quiet
from cnn_core.files import file_sha256
from cnn_core.segmentation.sam import network as sam
from cnn_core.segmentation.sam import weights as sam_weights
from tests.helpers.sam_files import sam_state, write_sam

FAST = ("mobile_sam",)
SLOW = ("sam2_t", "sam2.1_t", "sam_b")
NAMES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.fixture(scope="module", autouse=True)
def _quiet(tmp_path_factory) -> None:
    quiet(tmp_path_factory.mktemp("ultralytics"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_sam(tmp_path_factory.mktemp("weights"), "mobile_sam")


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_one_that_ultralytics_builds_for_the_file(tmp_path, name):
    from ultralytics import SAM

    official = write_sam(tmp_path, name)
    own = official.rename(tmp_path / "mine.pth")  # the name says nothing
    loaded = sam.load_sam(own)
    own.rename(official)
    reference = SAM(str(official)).model
    assert loaded.name == name
    assert loaded.sha256 == file_sha256(official)
    assert loaded.family == sam_weights.family(official) == ("sam2" if "sam2" in name else "sam")
    assert not loaded.network.training
    assert shapes(loaded.network) == shapes(reference)
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]), key
    plain = (bool, int, float, str, type(None))
    settings = [
        {key: value for key, value in vars(network).items() if isinstance(value, plain)}
        for network in (loaded.network, reference)
    ]
    assert settings[0] == settings[1]


@pytest.mark.parametrize(
    ("name", "width", "blocks", "key"),
    [
        ("sam_b", 768, 0, "image_encoder.patch_embed.proj.weight"),
        ("sam_l", 1024, 0, "image_encoder.patch_embed.proj.weight"),
        ("sam_h", 1280, 0, "image_encoder.patch_embed.proj.weight"),
        ("mobile_sam", 32, 0, "image_encoder.patch_embed.seq.0.c.weight"),
        ("sam2_t", 96, 12, "image_encoder.trunk.patch_embed.proj.weight"),
        ("sam2_s", 96, 16, "image_encoder.trunk.patch_embed.proj.weight"),
        ("sam2_b", 112, 24, "image_encoder.trunk.patch_embed.proj.weight"),
        ("sam2_l", 144, 48, "image_encoder.trunk.patch_embed.proj.weight"),
    ],
)
def test_every_network_is_told_by_its_tensors(name, width, blocks, key):
    state = {key: torch.zeros(width, 3, 1, 1)}
    state |= {f"image_encoder.trunk.blocks.{number}.norm1.weight": torch.zeros(1) for number in range(blocks)}
    assert sam_weights.identify(state, "x.pt") == name
    if blocks:
        assert sam_weights.identify(state | {"no_obj_embed_spatial": torch.zeros(1, 64)}, "x.pt") == name.replace(
            "sam2", "sam2.1"
        )


def test_the_table_of_networks_is_that_of_ultralytics():
    """Widths and numbers of blocks, as its builders have them, without building the large ones."""
    import inspect

    from ultralytics.models.sam import build

    for width, name in sam_weights._VIT.items():
        assert f"encoder_embed_dim={width}," in inspect.getsource(build.sam_model_map[f"{name}.pt"])
    for (width, blocks), size in sam_weights._HIERA.items():
        source = inspect.getsource(build.sam_model_map[f"sam2_{size}.pt"])
        stages = source.split("encoder_stages=[")[1].split("]")[0]
        assert f"encoder_embed_dim={width}," in source
        assert sum(map(int, stages.split(","))) == blocks


def test_both_layouts_are_read(tmp_path):
    for layout in (lambda state: state, lambda state: {"model": state, "epoch": 3}):
        torch.save(layout(sam_state("mobile_sam")), tmp_path / "x.pt")
        assert sam_weights.read_weights(tmp_path / "x.pt").name == "mobile_sam"


def test_ultralytics_networks_are_told_apart(tmp_path):
    from ultralytics import YOLO

    YOLO("yolo11n-seg.yaml").save(str(tmp_path / "sam_b.pt"))  # whatever it is called
    assert sam_weights.family(tmp_path / "sam_b.pt") == "yolo"
    with pytest.raises(ValueError, match="run by the detector"):
        sam_weights.read_weights(tmp_path / "sam_b.pt")
    (tmp_path / "x.onnx").write_bytes(b"onnx")
    assert sam_weights.family(tmp_path / "x.onnx") == "yolo"


def test_what_is_missing_says_what_to_fetch(tmp_path):
    for name, fetched in (
        ("sam2.1_t.pt", "sam2.1_t.pt"),
        ("FastSAM-s.pt", "FastSAM-s.pt"),
        ("a/folder", r"NAME` .*sam2\.1_t\.pt"),
    ):
        with pytest.raises(ValueError, match=f"does not exist: `gridflow fetch {fetched}"):
            sam.load_sam(tmp_path / name)
    (tmp_path / "sam_b.pt.dvc").write_text("")
    with pytest.raises(ValueError, match=r"dvc pull .*sam_b\.pt\.dvc"):
        sam.load_sam(tmp_path / "sam_b.pt")
    with pytest.raises(ValueError, match="no weights at all"):
        sam.load_sam("data/weights/none")
    with pytest.raises(ValueError, match=r"holds neither model\.pt and model.json"):
        sam.load_sam(tmp_path)


def test_a_model_folder_is_read(tmp_path, checkpoint):
    (tmp_path / "model.pt").write_bytes(checkpoint.read_bytes())
    (tmp_path / "model.json").write_text("{}")
    assert sam_weights.read_weights(tmp_path).name == "mobile_sam"


def test_damaged_files_are_refused(tmp_path, checkpoint):
    whole = checkpoint.read_bytes()
    for name, content, message in (
        ("empty.pt", b"", "no file of weights.* is empty"),
        ("page.pt", b"<!DOCTYPE html><html>log in</html>", "no file of weights.* begins with b'<!DOCTYP'"),
        ("cut.pt", whole[: len(whole) // 2], "only the beginning of one: it begins with b'PK"),
        ("old.pt", b"\x80\x02", "cut short or damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            sam_weights.read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1)}, "none of the known networks"),
        ({"model": {"a": 1}}, "no tensors by their names"),
        ([torch.zeros(1)], "no tensors by their names"),
    ],
)
def test_other_tensors_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        sam_weights.read_weights(tmp_path / "x.pt")


def test_a_network_that_only_looks_like_one_is_refused(tmp_path):
    state = sam_state("mobile_sam")
    key = "mask_decoder.iou_token.weight"
    for changed, message in (
        ({name: value for name, value in state.items() if name != key}, f"lacks {key}"),
        (state | {key: torch.zeros(1, 7)}, r"has the shape \(1, 7\), not \(1, 256\)"),
        (state | {"more": torch.zeros(1)}, "also has more"),
    ):
        torch.save(changed, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=message):
            sam.load_sam(tmp_path / "x.pt")


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_executed(tmp_path, zipped):
    file, trace = tmp_path / "x.pt", tmp_path / "trace"
    content = {"model": {"a": torch.zeros(1)}, "bomb": Bomb(trace)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    for read in (sam_weights.read_weights, sam_weights.family):
        with pytest.raises(ValueError, match=f"execute code .* GRIDFLOW_TRUSTED_WEIGHTS={file_sha256(file)}"):
            read(file)
    file.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ValueError, match=r"execute code|no file of weights"):
        sam_weights.read_weights(file)
    assert not trace.exists()


def test_files_that_the_user_names_are_read_all_the_same(tmp_path, monkeypatch):
    file = tmp_path / "x.pt"
    torch.save({"model": sam_state("mobile_sam"), "arguments": argparse.Namespace(lr=1)}, file)
    with pytest.raises(ValueError, match="execute code"):
        sam_weights.read_weights(file, trusted=["0" * 64])
    assert sam_weights.read_weights(file, trusted=[file_sha256(file)]).name == "mobile_sam"
    monkeypatch.setenv("GRIDFLOW_TRUSTED_WEIGHTS", f"{'0' * 64}, {file_sha256(file)}")
    assert sam_weights.read_weights(file).name == "mobile_sam"


def test_a_file_that_changed_since_it_was_fetched_is_refused(tmp_path, checkpoint):
    file = tmp_path / "mobile_sam.pt"
    file.write_bytes(checkpoint.read_bytes())
    note = {"file": file.name, "sha256": file_sha256(file)}
    (tmp_path / "mobile_sam.json").write_text(json.dumps(note))
    assert sam_weights.read_weights(file).name == "mobile_sam"
    (tmp_path / "mobile_sam.json").write_text(json.dumps(note | {"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"0000 was fetched .*gridflow fetch mobile_sam.pt"):
        sam_weights.read_weights(file)


def test_checkpoints_of_one_seed_are_the_same():
    first, second, other = sam_state("mobile_sam", 1), sam_state("mobile_sam", 1), sam_state("mobile_sam", 2)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    assert pickle.load(io.BytesIO(pickle.dumps(sorted(first)))) == sorted(other)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no SAM called 'sam9'"):
        sam.build_sam("sam9")
