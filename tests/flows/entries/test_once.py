"""`gridflow detect` and `segment` run a stage once, in a folder of the user's; nothing of the checkout changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cnn_core.files import write_json
from flows.entries.once import check_out, parameters, source_path, weights_path, write_values
from tests.helpers.detector_files import write_detector
from tests.helpers.object_formats import picture
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.xdist_group("entries")


def test_the_parameters_are_those_of_the_stages() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert parameters("detect").keys() == values["detect"]["detector"].keys()
    assert parameters("segment").keys() == values["segment"]["segmenter"].keys()
    assert parameters("segment")["prompt"] == "everything"


def test_what_is_named_is_there_or_is_said(tmp_path: Path) -> None:
    files = [str(picture(tmp_path / f"{number}.png", number)) for number in range(2)]
    assert source_path(tmp_path, files[:1]) == files[0]
    assert Path(source_path(tmp_path, files)).read_text().splitlines() == files
    with pytest.raises(ValueError, match="is a folder: name it alone"):
        source_path(tmp_path, [*files, str(tmp_path)])
    with pytest.raises(ValueError, match=r"gone\.png does not exist"):
        source_path(tmp_path, ["gone.png"])
    with pytest.raises(ValueError, match=r"x\.pt is not there, neither as a model .*; models here: digits"):
        weights_path(ROOT, "x.pt")


def test_a_folder_of_ones_own_is_not_written_into(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    check_out(tmp_path)  # empty
    write_json(tmp_path / "manifest.json", {"model_sha256": "0"})
    check_out(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no results of this command"):
        check_out(tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cnf=0.5", r"^cnf is not a parameter; did you mean conf or"),
        ("conf=7", r"^conf must be at least 0 and at most 1, not 7\.0"),
        ("conf", r"^--set conf: write key=value, for example conf=0\.5"),
    ],
)
def test_a_parameter_is_named_as_the_person_names_it(tmp_path: Path, override: str, words: str) -> None:
    for package in ("tasks", "cnn_core"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"detect": {"once": parameters("detect")}}))
    with pytest.raises(ValueError, match=words):
        write_values(tmp_path, "detect", [override])


@pytest.mark.slow
def test_a_detector_is_run_once(tmp_path: Path, run: Callable) -> None:
    files = [picture(tmp_path / "pictures" / f"{number}.png", number).name for number in range(3)]
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no image")
    write_detector(tmp_path / "random.pt", imgsz=64, boxes=20)
    state = ("git", "-C", str(ROOT), "status", "--porcelain")
    before = run(*state, cwd=tmp_path).stdout
    command = ["python", "-m", "flows.cli", "detect", str(tmp_path / "random.pt"), str(tmp_path / "pictures")]
    printed = run(*command, "--out", str(tmp_path / "out"), "--set", "conf=0.0", "--set", "pictures=1", cwd=ROOT)
    assert f"Results: {tmp_path / 'out'}" in printed.stdout
    images = pd.read_parquet(tmp_path / "out/images.parquet")
    assert [Path(file).name for file in images["file"]] == files
    assert len(pd.read_csv(tmp_path / "out/bad.csv")) == 1
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1
    assert json.loads((tmp_path / "out/manifest.json").read_text())["counts"]["objects"] > 0
    assert run(*state, cwd=tmp_path).stdout == before
    refused = run(*command, "--out", str(tmp_path / "out"), "--set", "cnf=1", cwd=ROOT, code=1)
    assert "cnf is not a parameter; did you mean" in refused.stderr
    assert (tmp_path / "out/images.parquet").is_file()
