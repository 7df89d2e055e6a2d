"""Differences of two runs and their significance, checked against SciPy and published figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy.stats import binomtest

from cnn_core.classification.inference.metrics import wilson
from cnn_core.comparison.banners import PLACEHOLDER, add_banner, difference_banner
from cnn_core.comparison.changes import difference_interval, measure_change, two_sided
from cnn_core.comparison.differences import Differences, differences
from cnn_core.comparison.tables import markdown, plain, text
from cnn_core.markdown import one_line
from tests.helpers.names import AWKWARD

NAMES = ("before", "after")
MEASURED = {"evaluate": {"digits": {}}, "evaluate_detector": {"one": {}}, "read": {"two": {}}}


def run_of(
    root: Path, right: np.ndarray, *, ids: list[str] | None = None, hashes: list[str] | None = None, **params: object
) -> Path:
    """A run whose classifier is right on these test images: answers, RAW rows, metrics."""
    count = len(right)
    ids, labels = ids or [f"train/{number:05d}" for number in range(count)], np.arange(count) % 10
    table = pd.DataFrame({"id": ids, "label": labels, "predicted": np.where(right, labels, (labels + 1) % 10)})
    for folder in ("metrics", "predictions", "raw/digits"):
        (root / "data" / folder).mkdir(parents=True)
    table.to_parquet(root / "data/predictions/digits-test.parquet")
    raw = pd.DataFrame({"id": ids, "split": "test", "sha256": hashes or [f"hash {name}" for name in ids]})
    raw.to_parquet(root / "data/raw/digits/part-00000.parquet")
    low, high = wilson(int(right.sum()), count)
    metrics = {"n": count, "accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high, "seconds": 3.0}
    write(root, "evaluate-digits", metrics | {"f1": {"0": float(right[::10].mean())}})
    content = {"train": {"digits": {"epochs": 3, **params}}, **MEASURED, "report": {}}
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    return root


def write(root: Path, stage: str, metrics: dict) -> None:
    (root / f"data/metrics/{stage}.json").write_text(json.dumps(metrics))


def rights(count: int, *wrong: int) -> np.ndarray:
    return ~np.isin(np.arange(count), wrong)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 3), (3, 5), (10, 10), (2, 17), (100, 61)])
def test_the_paired_test_is_scipys_two_sided_one(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert two_sided(gained, lost) == pytest.approx(expected)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """Newcombe (1998), table II, method 10: 56/70 - 48/80 is 0.2, 0.0524 to 0.3339."""
    bounds = difference_interval(48 / 80, wilson(48, 80), 56 / 70, wilson(56, 70))
    assert bounds == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_classifiers_are_compared_image_by_image(tmp_path: Path) -> None:
    one = run_of(tmp_path / "a", rights(200, *range(30)))
    other = run_of(tmp_path / "b", rights(200, *range(26, 34)), epochs=5)
    compared = differences(one, other, names=NAMES)
    (change,) = compared.headlines
    assert (change.key, change.method, change.gained, change.lost, change.shared) == (
        "evaluate-digits:accuracy", "images", 26, 4, 200)  # fmt: skip
    assert change.p_value == pytest.approx(binomtest(26, 30, 0.5).pvalue)
    assert change.meaning == "better"
    assert compared.verdict == "after against before, by more than luck: better in digits recognised."
    assert compared.params == {"train.digits.epochs": (3, 5)}
    back = differences(other, one, names=NAMES)
    assert back.headlines[0].meaning == "worse"
    assert back.verdict == "after against before, by more than luck: worse in digits recognised."


def test_a_small_change_may_be_luck_and_none_is_none(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", rights(200, 1, 2)), run_of(tmp_path / "b", rights(200, 2))
    compared = differences(one, other, names=NAMES)
    assert compared.headlines[0].meaning == "not clear"
    assert "by more than luck might" in compared.verdict
    same = differences(one, one, names=NAMES)
    assert {change.meaning for change in same.metrics} == {"same"}
    assert same.params == {}


def test_images_are_known_by_their_pixels_where_names_were_given_anew(tmp_path: Path) -> None:
    """The second set has half of the first's images under other names, and new ones under the old names."""
    one = run_of(tmp_path / "a", rights(100, 0, 1))
    ids = [f"train/{number:05d}" for number in range(100)]
    hashes = [f"hash train/{number:05d}" for number in range(50, 100)] + [f"new {number}" for number in range(50)]
    other = run_of(tmp_path / "b", rights(100, 0), ids=ids, hashes=hashes)
    compared = differences(one, other, names=NAMES)
    assert (compared.headlines[0].shared, compared.headlines[0].gained, compared.headlines[0].lost) == (50, 0, 1)
    assert any("the test parts differ; 50 images are in both" in note for note in compared.notes)


def test_other_labels_are_not_compared_by_images(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", rights(100, 0)), run_of(tmp_path / "b", rights(100, 1))
    path = other / "data/predictions/digits-test.parquet"
    table = pd.read_parquet(path)
    table.assign(label=(table["label"] + 1) % 10).to_parquet(path)
    compared = differences(one, other, names=NAMES)
    assert compared.headlines[0].method == "none"  # the same accuracy
    assert any("different labels for 100 images" in note for note in compared.notes)


def test_figures_with_intervals_and_without(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", rights(20)), run_of(tmp_path / "b", rights(20))
    far = {"map50": 0.9, "map50_low": 0.89, "map50_high": 0.91, "precision": 0.7, "objects": 5, "seconds": 1.0}
    write(one, "evaluate_detector-one", far)
    write(other, "evaluate_detector-one", far | {"map50": 0.8, "map50_low": 0.78, "map50_high": 0.82, "precision": 0.6})
    write(other, "read-two", {"found_and_read": 0.5})
    compared = differences(one, other, names=NAMES)
    by_key = {change.key: change for change in compared.metrics}
    assert by_key["evaluate_detector-one:map50"].meaning == "worse"
    assert by_key["evaluate_detector-one:map50"].high < 0
    assert by_key["evaluate_detector-one:precision"].meaning == "not known"
    assert by_key["evaluate_detector-one:objects"].meaning == "same"
    assert not {key for key in by_key if key.endswith(("seconds", "_low", "_high"))}
    assert [change.key for change in compared.headlines] == ["evaluate-digits:accuracy", "evaluate_detector-one:map50"]
    assert (compared.only_before, compared.only_after) == ([], ["read-two"])


def test_the_tables_say_the_same(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", rights(200, *range(30))), run_of(tmp_path / "b", rights(200), epochs="a|b")
    compared = differences(one, other, names=("v1", "a|name <b>"))
    plain_text, marked = text(compared), markdown(compared)
    for words in (
        "85.00 %",
        "100.00 %",
        "+15.00",
        "30 gained, 0 lost of 200 images, p = 1.9e-09",
        "train.digits.epochs",
    ):
        assert words in plain_text
        assert words in marked
    assert "f1/0" not in plain_text
    assert "1 figures of single classes" in plain_text
    assert "f1/0" in text(compared, every=True)
    table = [line for line in marked.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {6, 4}
    values = json.loads(json.dumps(plain(compared)))
    assert values["metrics"][0]["p_value"] == pytest.approx(binomtest(30, 30, 0.5).pvalue)
    page = add_banner(f"<body>{PLACEHOLDER}</body>", difference_banner(compared))
    assert page.startswith('<body><div id="banner"><aside')
    assert page.endswith("</aside></div></body>")
    assert "a|name &lt;b&gt;" in page
    assert "<b>" not in page
    with pytest.raises(ValueError, match="has no place for a banner: run its stage report again"):
        add_banner("<body></body>", difference_banner(compared))


def test_a_run_without_metrics_is_named(tmp_path: Path) -> None:
    one = run_of(tmp_path / "a", rights(20))
    with pytest.raises(ValueError, match="after has no metrics"):
        differences(one, tmp_path / "empty", names=NAMES)


AWKWARD_NAMES = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
DIRECTIONS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


@given(AWKWARD_NAMES, AWKWARD_NAMES, AWKWARD_NAMES)
def test_names_of_runs_classes_and_values_are_shown_as_they_are(run_name: str, class_name: str, value: str) -> None:
    """In Markdown, and in a terminal, where each row is one line."""
    change = measure_change(f"evaluate-scenes:f1/{class_name}", (0.5, None), (0.6, None))
    compared = Differences(
        before="before", after=run_name, params={"ingest.scenes.source": ("a", value)}, metrics=[change],
        only_before=[], only_after=[class_name], notes=[f"{run_name}: a note."],
    )  # fmt: skip

    def shown(text: str) -> str:
        return " ".join(text.translate(DIRECTIONS).split())

    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown(compared, every=True))
    blocks = ("paragraph", "table", "thead", "tbody", "tr", "th", "td", "bullet_list", "list_item")
    ends = {f"{block}_{end}" for block in blocks for end in ("open", "close")}
    assert {token.type for token in tokens} <= ends | {"inline"}
    cells = [
        shown("".join(part.content for part in token.children or [])) for token in tokens if token.type == "inline"
    ]
    for words in (run_name, f"evaluate-scenes: f1/{class_name}", value, f"Only {run_name} has {class_name}."):
        assert shown(one_line(words)) in cells
    lines = text(compared, every=True).splitlines()
    assert sum(line.lstrip("\u2068").startswith("evaluate-scenes") for line in lines) == 1


def test_answers_of_runs_with_other_classes_are_compared_by_name(tmp_path: Path) -> None:
    """Classes 0 to 9 have other numbers in the second run, which has a further class, and the set another name."""
    first, second = run_of(tmp_path / "first", rights(40, 1, 2)), run_of(tmp_path / "second", rights(40, 1))
    former = [str(number) for number in range(10)]
    present = ["extra", *reversed(former)]
    path = second / "data/predictions/digits-test.parquet"
    table = pd.read_parquet(path)
    for key in ("label", "predicted"):
        table[key] = [present.index(former[number]) for number in table[key]]
    table.loc[39, ["label", "predicted"]] = 0
    table.to_parquet(path)
    for root, name, classes in ((first, "digits", former), (second, "signs", present)):
        (root / "data/raw/digits").rename(root / "data/raw" / name)
        (root / "data/raw" / name / "manifest.json").write_text(json.dumps({"classes": classes}))
        content = yaml.safe_load((root / "params.yaml").read_text()) | {"evaluate": {"digits": {"data": name}}}
        (root / "params.yaml").write_text(yaml.safe_dump(content))
    hashes = pd.read_parquet(first / "data/raw/digits/part-00000.parquet")
    hashes.assign(id=[f"new/{row}" for row in range(40)]).to_parquet(second / "data/raw/signs/part-00000.parquet")
    table.assign(id=[f"new/{row}" for row in range(40)]).to_parquet(path)
    found = differences(first, second, names=NAMES)
    assert found.notes == [
        "digits: the classes differ; what both runs have is compared by the classes' names.",
        "digits: the test parts differ; 39 images are in both, where 94.87% and 97.44% are right. "
        "The figures above are each run's own.",
    ]
