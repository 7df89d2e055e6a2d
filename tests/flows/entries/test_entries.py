"""`gridflow new`, `drop` and `sets`: from a folder to entries and back, with nothing else changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.entries.drop import DEMO_MODELS, DEMO_SETS, carry_out, plan
from flows.entries.new import Request, check_names, filled, template_of
from flows.entries.use import entry_of_weights
from flows.entries.values import Survey, starting_values
from flows.registry.models import Task, read_models
from tasks.check import faults
from tests.helpers.detection_sets import rectangles
from tests.helpers.object_formats import picture
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.xdist_group("entries")

FILES = ("params.yaml", "dvc.yaml", "prefect.yaml")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that entries stand in."""
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "data/models/scenes").mkdir(parents=True)
    (tmp_path / "data/sources/scenes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(root: Path, name: str) -> dict:
    return yaml.safe_load((root / name).read_text())


def test_the_demo_goes_with_all_that_names_it(root: Path) -> None:
    dropped = plan(root, DEMO_MODELS, DEMO_SETS)
    carry_out(root, dropped)
    params, graph = content(root, "params.yaml"), content(root, "dvc.yaml")
    assert {name for name, section in params.items() if section == {}} == set(params) - {"study", "report"}
    assert params["report"]["expected"] == {}
    assert (graph.get("artifacts"), graph.get("plots")) == (None, None)
    assert graph["stages"] == yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert not any(one["schedules"] for one in content(root, "prefect.yaml")["deployments"])
    assert read_models(root) == {}
    assert not (root / "data/models/scenes").exists()
    assert (root / "runtime.yaml").exists() is False  # nothing else was written
    comments = [line for line in (root / "params.yaml").read_text().splitlines() if line.startswith("#")]
    assert comments == [line for line in (ROOT / "params.yaml").read_text().splitlines() if line.startswith("#")]
    assert plan(root, [], [], only_existing=True).stages == []


def test_a_set_stays_while_something_needs_it(root: Path) -> None:
    dropped = plan(root, ["digits"], [])  # the composed pictures are made of the digits
    assert "train@digits" in dropped.stages
    assert not {"ingest@digits", "sample@digits", "compose@numbers"} & set(dropped.stages)
    assert "augment@digits" in dropped.stages  # only that model learned from it
    assert dropped.kept == ["digits"]
    assert {"ingest@scenes", "augment@scenes", "sample@scenes"} <= set(plan(root, ["scenes"], []).stages)
    with pytest.raises(ValueError, match=r"segmenter needs data/.*, which detect@detector makes: drop segmenter"):
        plan(root, ["detector"], [])
    with pytest.raises(ValueError, match="there is no data set or model 'detectr'; there are detector"):
        plan(root, ["detectr"], [])
    with pytest.raises(ValueError, match="train@digits needs data/augmented/digits, which augment@digits makes"):
        plan(root, [], ["digits"])


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(model="digits", task="classification", source="x"), "there is a model 'digits' already"),
        (Request(model="Birds", task="classification", source="x"), "'Birds' is no name for an entry"),
        (Request(model="birds-test", task="classification", source="x"), "ends in -test, which is ours"),
        (Request(model="birds", task="classification", source="x", data_set="scenes"), "a data set 'scenes' already"),
        (Request(model="birds", task="classification", data_set="brids"), "there is no data set 'brids'"),
        (Request(model="birds", task="detection", source="x", like="digits"), "no model 'digits' for detection"),
        (Request(model="birds", task="classification", source="x", network="yolo"), "--network is for detection"),
    ],
)
def test_names_are_checked_before_anything_is_read(root: Path, request_: Request, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_names(root, request_, content(root, "params.yaml"))


@pytest.mark.parametrize("images", [3, 40, 500, 14_000, 1_000_000])
@pytest.mark.parametrize("side", [8, 28, 64, 150, 4000])
def test_starting_values_suit_any_number_and_size_of_images(images: int, side: int) -> None:
    manifest = {"mode": "RGB", "counts": {"train": images}, "classes": ["a", "b"], "sides": {"0.5": side}}
    survey = Survey(source="x", manifest=manifest)
    for task in ("classification", "detection", "segmentation"):
        values = starting_values(survey, task)
        assert 15 <= values["epochs"] <= 80
        assert 2 <= values["batch"] <= max(2, min(64, images))
        assert values["size"] % 32 == 0
        assert 64 <= values["size"] <= 640
        assert template_of(task, survey)


@pytest.mark.parametrize(
    ("kind", "several"),
    [("pixels", {}), ("images", {}), ("images", {"multilabel": True, "without_label": {"train": 3}}), ("objects", {})],
)
def test_every_template_fits_its_stages(tmp_path: Path, kind: str, several: dict) -> None:
    manifest = {"mode": "L" if kind == "pixels" else "RGB", "counts": {"train": 200}, "classes": ["a", "b"], **several}
    survey = Survey(source="x", manifest={**manifest, "kind": kind, "sides": {"0.5": 100}})
    assert survey.kind == kind
    tasks: list[Task] = ["detection", "segmentation"] if kind == "objects" else ["classification"]
    text, names = (
        "",
        {"set": "pictures", "source": "/a b/c", "model": "one", "detector": "two", "network": "yolo11n.yaml"},
    )
    for template, task in [(kind, tasks[0]), *((template_of(task, survey), task) for task in tasks)]:
        for section, entry in filled(template, starting_values(survey, task) | names).items():
            text += f"{section}:\n{entry}"
    (tmp_path / "params.yaml").write_text(text)
    assert list(faults(tmp_path / "params.yaml")) == []
    assert "$" not in text
    assert yaml.safe_load(text)["ingest"]["pictures"].get("multilabel") == several.get("multilabel")


@pytest.mark.parametrize(
    ("task", "stage"),
    [("classification", "predict"), ("detection", "detect"), ("segmentation", "segment")],
)
def test_weights_become_an_entry_that_trains_nothing(root: Path, tmp_path: Path, task: Task, stage: str) -> None:
    (tmp_path / "net.pt").write_text("")
    (tmp_path / "a b").mkdir()
    before = content(root, "params.yaml")
    entries = entry_of_weights(root, "photos", task, str(tmp_path / "net.pt"), str(tmp_path / "a b"))
    assert (entries.added, entries.stages) == ([f"{stage}.photos"], [f"{stage}@photos"])
    (root / "params.yaml").write_text(entries.params)
    after = content(root, "params.yaml")
    entry = after[stage].pop("photos")
    assert after == before
    assert (entry["weights"], entry["source"], entry.get("match", "*")) == ("net.pt", "a b", "*")
    assert {key: entry[key] for key in ("prompt", "prompts") if key in entry} == (
        {"prompt": "everything", "prompts": "data/weights/none"} if stage == "segment" else {}
    )
    assert list(faults(root / "params.yaml")) == []
    with pytest.raises(ValueError, match="there is an entry 'photos' already; `gridflow drop photos` takes it out"):
        entry_of_weights(root, "photos", "detection", str(tmp_path / "net.pt"), str(tmp_path / "a b"))
    assert plan(root, ["photos"], []).stages == [f"{stage}@photos"]
    carry_out(root, plan(root, ["photos"], []))
    assert (root / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "weights", "source", "words"),
    [
        ("detector", "detector", ".", "there is an entry 'detector' already"),
        ("photos", "segmenter", ".", "the model 'segmenter' is for segmentation: use --task segmentation"),
        ("photos", "no.pt", ".", "no.pt does not exist: name a model, a model folder or a file of weights"),
        ("photos", "detector", "none", "none does not exist: name a folder, a file or a .zip"),
        ("photos-test", "detector", ".", "ends in -test, which is ours"),
    ],
)
def test_an_entry_of_weights_is_refused(root: Path, name: str, weights: str, source: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        entry_of_weights(root, name, "detection", weights, source)


@pytest.mark.slow
def test_from_a_folder_to_entries_and_back(tmp_path: Path, run: Callable, repository: Path) -> None:
    """In a real checkout: the entries pass the checks of a run, and dropping them gives the former files back."""
    root = tmp_path / "checkout"
    run("git", "clone", "-q", str(repository), str(root), cwd=tmp_path)
    for name in FILES:  # as they stand, committed or not
        shutil.copy(repository / name, root)
    shutil.copytree(repository / "flows", root / "flows", dirs_exist_ok=True)
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-q", "--allow-empty", "-m", "as it stands", cwd=root)
    before = {name: (root / name).read_text() for name in FILES}
    _class_folders(tmp_path / "pets/seg_train")
    boxes = rectangles(tmp_path / "shapes", polygons=True, train=24, val=6, test=6)
    printed = run("gridflow", "new", "pets", "--task", "classification", "--source", str(tmp_path / "pets"), cwd=root)
    assert "3 classes: cat, dog, owl" in printed.stdout
    assert "Committed params.yaml, dvc.yaml" in printed.stdout
    command = ["gridflow", "new", "x", "--task", "segmentation", "--source", str(tmp_path / "pets")]
    refused = run(*command, cwd=root, code=1)
    assert "holds images, and segmentation needs boxes or masks" in refused.stderr
    (root / "README.md").write_text("staged")
    run("git", "add", "README.md", cwd=root)
    command = ["gridflow", "new", "shapes", "--task", "segmentation", "--source", str(boxes), "--recipe", "tiny"]
    assert "Not committed (other changes are staged)" in run(*command, cwd=root).stdout
    names = set(json.loads(run("dvc", "status", "--json", cwd=root).stdout))
    stages = {f"{section}@pets" for section in ("ingest", "augment", "train", "evaluate", "predict")}
    stages |= {f"{section}@shapes-boxes" for section in ("train_detector", "evaluate_detector", "detect")}
    stages |= {f"{section}@shapes" for section in ("ingest", "train_segmenter", "evaluate_segmenter", "segment")}
    assert stages <= names
    listed = json.loads(run("gridflow", "sets", "--json", cwd=root).stdout)
    assert {one["name"]: one["models"] for one in listed}["shapes"] == ["shapes-boxes", "shapes"]
    copy = ["gridflow", "new", "more", "--task", "classification", "--set", "pets", "--like", "scenes", "--no-commit"]
    run(*copy, cwd=root)
    values = content(root, "params.yaml")["train"]
    assert values["more"] == {**values["scenes"], "data": "pets", "weights": "data/weights/none"}
    for name in ("more", "pets", "shapes"):
        run("gridflow", "drop", name, "--no-commit", cwd=root)
    assert {name: (root / name).read_text() for name in FILES} == before


def _class_folders(folder: Path) -> None:
    for number, name in enumerate(("cat", "dog", "owl")):
        for image in range(12):
            picture(folder / name / f"{image}.png", 100 * number + image)
