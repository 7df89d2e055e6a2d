"""Parameters patched as `dvc exp run -S` does it, and never with a value that is not allowed."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import pytest
import yaml

from flows.repository.parameters import check_params, parameters_naming, patch_params
from flows.repository.recipes import recipe_values, recipes, skipped
from tasks.check import faults

pytestmark = pytest.mark.xdist_group("parameters")


@pytest.fixture
def root(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with parameters; they are checked in this process, for one of its own takes seconds."""
    monkeypatch.setattr("flows.repository.parameters.check_params", check_here)
    for name in ("params.yaml", "recipes"):
        source = repository / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for package in ("tasks", "cnn_core"):
        (tmp_path / package).symlink_to(repository / package)
    return tmp_path


def check_here(root: Path, params: Path | None = None, sections: Collection[str] = ()) -> None:
    if found := list(faults(params or root / "params.yaml", sections)):
        raise ValueError("\n".join(found))


def test_parameters_are_checked_by_a_process_of_its_own(root: Path) -> None:
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("unlabelled: 500 ", "unlabelled: -1 "))
    with pytest.raises(ValueError, match=r"^sample\.digits\.unlabelled must be at least 0"):
        check_params(root)


def test_only_sections_that_are_asked_for_are_looked_into(root: Path) -> None:
    whole = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(whole.replace("unlabelled: 500 ", "unlabelled: -1 "))
    patch_params(root, None, ["detect.detector.conf=0.5"])  # for `detect` another stage's fault is none
    with pytest.raises(ValueError, match=r"^detect\.detector\.conf must be at least 0 and at most 1, not 2"):
        patch_params(root, None, ["detect.detector.conf=2"])
    check_params(root, sections={"detect"})
    with pytest.raises(ValueError, match=r"^sample\.digits\.unlabelled must be at least 0"):
        check_params(root, sections={"detect", "sample"})
    (root / "params.yaml").write_text(whole + "detct:\n  conf: 1\n")
    with pytest.raises(ValueError, match="detct is not a stage; did you mean detect"):
        check_params(root, sections={"detect"})


def test_an_override_changes_its_value_and_keeps_the_comments(root: Path) -> None:
    before = (root / "params.yaml").read_text()
    changes = patch_params(root, None, ["sample.digits.unlabelled=400"])
    assert changes == ["sample.digits.unlabelled: 500 -> 400"]
    after = (root / "params.yaml").read_text()
    assert after == before.replace("unlabelled: 500 ", "unlabelled: 400 ")
    assert "# " in after


def test_a_path_may_hold_any_character(root: Path) -> None:
    path = "/data/a b, (c) = ünï/{x}"
    patch_params(root, None, [f"ingest.digits.source={path}"])
    assert parameters_naming(root, path) == ["ingest.digits.source"]


def test_the_home_folder_is_expanded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert patch_params(root, None, ["ingest.scenes.source=~/photos"]) == [
        "ingest.scenes.source: data/sources/scenes -> /home/anna/photos"
    ]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.digits.epocs=3", "train.digits.epocs is not a parameter; did you mean train.digits.epochs"),
        ("train.digits.epochs=0", "train.digits.epochs must be at least 1"),
        ("train.digits.epochs", "write key=value"),
        ("+train.digits.more=3", "can be changed, not added"),
        ("train.digits.epochs=[", "train.digits.epochs=[: no viable alternative"),
        ("train.digits.epochs=1,2", "one run takes one value"),
        ("train.digits.epochs=${oc.env:SECRET}", "train.digits.epochs: a value cannot hold ${"),
        ("ingest.digits.source=${oc.env:SECRET}", "ingest.digits.source: a value cannot hold ${"),
        ("ingest.digits.source='x${oc.env:SECRET}'", "ingest.digits.source: a value cannot hold ${"),
    ],
)
def test_a_bad_override_says_so_and_changes_nothing(root: Path, override: str, words: str) -> None:
    before = (root / "params.yaml").read_bytes()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        patch_params(root, None, ["sample.digits.unlabelled=400", override])
    assert words in str(caught.value)
    assert (root / "params.yaml").read_bytes() == before
    assert not list(root.glob(".params-*"))


def test_nothing_reads_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an override nor a recipe, nor what a person has in params.yaml already."""
    monkeypatch.setenv("SECRET", "sesame")
    text = (root / "params.yaml").read_text().replace("source: data/sources/scenes", "source: ${oc.env:SECRET}")
    (root / "params.yaml").write_text(text)
    assert patch_params(root, None, ["sample.digits.unlabelled=400"]) == ["sample.digits.unlabelled: 500 -> 400"]
    assert "source: ${oc.env:SECRET}" in (root / "params.yaml").read_text()
    (root / "recipes" / "bad.yaml").write_text("ingest: {digits: {source: '${oc.env:SECRET}'}}")
    for recipe, overrides in (("bad", []), (None, ["ingest.digits.source=${oc.env:SECRET}"])):
        with pytest.raises(ValueError, match="cannot hold") as caught:
            patch_params(root, recipe, overrides)
        assert "sesame" not in str(caught.value)
    assert "sesame" not in (root / "params.yaml").read_text()


def test_a_recipe_goes_first_and_an_override_wins(root: Path) -> None:
    changes = patch_params(root, "tiny", ["train.digits.epochs=3"])
    assert "train.digits.epochs" in "".join(changes)
    assert "epochs: 3" in (root / "params.yaml").read_text()
    assert patch_params(root, "tiny", ["train.digits.epochs=3"]) == []


def test_an_unknown_recipe_lists_the_known(root: Path) -> None:
    assert {"tiny", "real", "gpu"} <= set(recipes(root))
    with pytest.raises(ValueError, match="recipes/ holds gpu, real, resnet18, tiny"):
        patch_params(root, "tin", [])


def test_a_recipe_sets_parameters_only_and_leaves_nothing_of_another_behind(repository: Path, root: Path) -> None:
    """It is written over params.yaml as it stands, perhaps with another recipe's values."""
    set_by = {name: set(recipe_values(repository, name)) for name in recipes(repository)}
    every = set.union(*set_by.values())
    assert {name: sorted(every - found) for name, found in set_by.items()} == {name: [] for name in set_by}
    for name in set_by:
        patch_params(root, name, [], check=False)  # a key that does not exist would raise
        assert list(faults(root / "params.yaml")) == [], name


def test_a_recipe_may_extend_another(root: Path) -> None:
    base, more = recipe_values(root, "real"), recipe_values(root, "resnet18")
    assert base["train.scenes.model.builder"] == "alexnet"
    assert more["train.scenes.model.builder"] == "resnet18"
    assert more.keys() == base.keys()
    assert more["train.digits.epochs"] == base["train.digits.epochs"]


def test_a_recipe_means_something_for_entries_of_ones_own(root: Path) -> None:
    """An entry that no recipe knows is set by its network or kind, its name goes over that, and others are skipped."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["train"] = {"birds": params["train"]["scenes"], "digits": params["train"]["digits"]}
    params["train_detector"] = {"cars": params["train_detector"]["detector"]}
    del params["report"]["expected"]["scenes"]
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "recipes" / "mine.yaml").write_text(
        "train:\n  <any>: {epochs: 1, seed: 5}\n  <torchvision_model>: {epochs: 2, batch_size: 3}\n"
        "  <alexnet>: {batch_size: 4}\n  <resnet18>: {batch_size: 5}\n  digits: {seed: 6}\n  gone: {seed: 7}\n"
        "report: {expected: {scenes: {accuracy: 0.5}, digits: {accuracy: 0.6}}}\n"
    )
    assert recipe_values(root, "mine") == {
        "train.birds.epochs": 2, "train.birds.seed": 5, "train.birds.batch_size": 4,
        "train.digits.epochs": 1, "train.digits.seed": 6, "report.expected.digits.accuracy": 0.6,
    }  # fmt: skip
    assert skipped(root, "mine") == ["train.gone", "report.expected.scenes.accuracy"]
    patch_params(root, "mine", [])
    for name in ("tiny", "real", "gpu", "resnet18"):
        values = recipe_values(root, name)
        assert {"train.birds.epochs", "train_detector.cars.epochs"} <= values.keys(), name
        assert "train.birds.model.builder" not in values, name  # the network is the model's own
        assert "train.scenes" in skipped(root, name)
        patch_params(root, name, [], check=False)
        assert list(faults(root / "params.yaml")) == [], name
