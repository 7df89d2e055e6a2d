"""The report is self-contained, a pure function of the run's files, total, and honest about what is missing."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cnn_core.annotations.checks import Refused, write_refused
from cnn_core.comparison.banners import add_banner, run_banner
from cnn_core.files import read_csv
from cnn_core.images.seen import Overlap, claim
from cnn_core.reporting import detection
from cnn_core.reporting.classifiers import confusion, select_answers
from cnn_core.reporting.numbers import pointer
from cnn_core.reporting.page import environment
from cnn_core.reporting.sets import origin
from tests.helpers import report_run
from tests.helpers.names import AWKWARD
from tests.helpers.page_text import Page

STANDALONE = re.compile(r"(?<![\w-])\d")  # a number, and no part of a name such as mAP50-95
# What holds text that is no figure of the run, or is held against its file below.
HELD = {"data-metric", "data-param", "data-file", "data-class", "data-table", "data-mask", "data-text"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_run.whole_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def html(whole: Path) -> str:
    return report_run.page(whole)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_an_image_that_the_evaluation_left_out_is_not_shown(run: Path) -> None:
    params = {"source": "data/composed/numbers", "split": "test", "confidence": 0.25, "match_iou": 0.45}
    before = detection.scenes(run, "detector", params, 8)
    assert before is not None
    file = "data/composed/numbers/images/test/000001.png"
    (run / file).write_bytes(b"no image")
    write_refused(run / "data/predictions/detector-left-out.csv", [Refused("image", params["source"], file, "damaged")])
    after = detection.scenes(run, "detector", params, 8)
    assert after is not None
    assert after["total"] == before["total"] - 1
    assert [row["id"] for row in after["rows"]] == [row["id"] for row in before["rows"] if row["id"] != "test/000001"]


def shown(value: Any, style: str) -> str:
    """How a value ought to stand on the page."""
    if style == "total":
        return f"{sum(value.values()):,}"
    if style == "seconds" and value >= 100:
        return f"{int(value // 60)} min {round(value % 60)} s"
    formats = {"percent": "{:.2%}", "share": "{:.1%}", "count": "{:,.0f}", "three": "{:.3f}", "precise": "{:.4g}"}
    formats |= {"seconds": "{:.1f} s", "megabytes": "{:,.0f} MB"}
    return formats[style].format(value / 1e6 if style == "megabytes" else value).replace("%", " %")


def looked_up(root: Path, key: str) -> Any:
    stage, _, path = key.partition(":")
    file = root / f"data/metrics/{stage}.json"
    if stage.startswith("manifest-"):
        file = root / f"data/raw/{stage.removeprefix('manifest-')}/manifest.json"
    value = json.loads(file.read_text())
    for part in path.split("/"):
        value = value[part]
    return value


def test_every_number_is_that_of_its_metrics_file(whole: Path, page: Page) -> None:
    marked = page.marked("data-metric")
    assert len(marked) > 250
    for attributes, text in marked:
        value = looked_up(whole, attributes["data-metric"])
        assert text == shown(value, attributes["data-style"]), attributes["data-metric"]
    metrics = {attributes["data-metric"] for attributes, _ in marked}
    for stage in (
        "evaluate-digits:accuracy",
        "evaluate_detector-detector:map50_low",
        "read-digits:ways/masks/cnn/found",
        "detect-detector:bad",
    ):
        assert stage in metrics


def test_there_is_no_number_on_the_page_that_bears_no_mark(page: Page) -> None:
    loose = [text for text, around in page.texts if not HELD & {name for found in around for name in found}]
    assert [text for text in loose if STANDALONE.search(text)] == []


def test_every_parameter_is_shown_with_its_value(whole: Path, page: Page) -> None:
    values = yaml.safe_load((whole / "params.yaml").read_text())
    for attributes, text in page.marked("data-param"):
        value = values
        for part in attributes["data-param"].split("."):
            value = value[part]
        style = attributes["data-style"]
        assert text == (shown(value, style) if style else "null" if value is None else str(value))
    names = {attributes["data-param"] for attributes, _ in page.marked("data-param")}
    assert {"train.digits.epochs", "report.expected.digits.found_and_read", "segment.segmenter.video.patience"} <= names


def test_the_confusion_is_that_of_the_predictions(whole: Path, page: Page) -> None:
    for file in ("evaluate-digits-confusion", "evaluate-scenes-confusion", "evaluate_detector-detector-confusion"):
        rows = pd.read_csv(whole / f"data/plots/{file}.csv", dtype=str)
        cells = [
            (around[-1], text)
            for text, around in page.texts
            if "data-actual" in around[-1] and any(file in found.get("data-table", "") for found in around)
        ]
        counts = {(cell["data-actual"], cell["data-predicted"]): int(text) for cell, text in cells}
        assert counts == rows.value_counts().to_dict()


def test_the_charts_hold_what_the_tables_hold(whole: Path, page: Page) -> None:
    drawn = [
        {(row["x"], row["series"], row["value"]) for row in data["values"]}
        for spec in page.specs
        for data in spec["data"]
        if data.get("values") and "series" in data["values"][0]
    ]
    table = pd.read_csv(whole / "data/plots/train-scenes.csv")
    for columns in (("train_loss", "val_loss"), ("train_accuracy", "val_accuracy")):
        named = zip(columns, ("training", "validation"), strict=True)
        expected = {(e, name, v) for col, name in named for e, v in zip(table["epoch"], table[col], strict=True)}
        assert expected in drawn
    assert {(0.0, "mean", 1.0), (0.5, "mean", 0.75), (0.0, "7", 1.0), (0.5, "7", 0.7)} in drawn
    assert {(1, "training", 0.25), (2, "training", 0.75), (2, "validation", 0.8)} in drawn


def test_the_images_behind_the_figures_are_those_that_were_answered(whole: Path, page: Page) -> None:
    answers = [one for one in page.payloads if "wrong" in one and "classes" in one]
    for one, name in zip(answers, ("digits", "scenes"), strict=True):
        table = pd.read_parquet(whole / f"data/predictions/{name}-test.parquet").set_index("id")
        assert (one["total"], one["wrong"]) == (30, (table["label"] != table["predicted"]).sum())
        assert {row[0] for row in one["rows"]} == set(table.index)
        for id_, label, said, sure, image in one["rows"]:
            assert (label, said) == tuple(table.loc[id_, ["label", "predicted"]])
            assert sure == pytest.approx(table.loc[id_].filter(like="p").iloc[1:].max(), abs=1e-4)
            assert image.startswith("data:image/png" if name == "digits" else "data:image/webp")


def test_mistakes_come_first_and_then_each_class_in_turn() -> None:
    rows = [(0, 0, 0.9), (0, 0, 0.5), (1, 1, 0.8), (0, 1, 0.6), (1, 0, 0.7), (0, 0, 0.4)]
    table = pd.DataFrame(rows, columns=["label", "predicted", "confidence"])
    assert select_answers(table, 10)["confidence"].tolist() == [0.7, 0.6, 0.4, 0.8, 0.5, 0.9]
    assert select_answers(table, 3)["confidence"].tolist() == [0.7, 0.6, 0.4]
    assert select_answers(table, 1)["confidence"].tolist() == [0.7]


def test_the_page_loads_nothing_and_says_so_to_the_browser(html: str, page: Page) -> None:
    assert [link for link in page.links if not link.startswith(("data:", "#"))] == []
    assert "default-src 'none'" in html
    assert "&lt;b&gt;text" in html  # a reason in the quarantine
    assert "sea &lt;cold&gt;" in html


def test_the_same_inputs_give_the_same_bytes(run: Path, html: str) -> None:
    assert report_run.page(run) == html


def test_names_of_classes_are_shown_as_they_are_whatever_they_hold(tmp_path: Path, page: Page) -> None:
    run = report_run.whole_run(tmp_path, scenes=AWKWARD)
    curve = pd.DataFrame({"recall": [0.0, 1.0], "precision": [1.0, 0.5], "class": ["it's", "NA"]})
    curve.to_csv(run / "data/plots/evaluate_detector-detector-pr.csv", index=False)
    awkward = Page(report_run.page(run))  # which refuses elements that are not closed
    assert len(awkward.specs) == len(page.specs)
    assert [len(one) for one in awkward.payloads] == [len(one) for one in page.payloads]
    measured = [text for text, around in awkward.texts if "data-class" in around[-1]]
    for name in AWKWARD:
        assert measured.count(name.strip()) >= 2, name  # images by class, precision by class, mostly the confusion
    table = read_csv(run / "data/plots/evaluate-scenes-confusion.csv")
    cells = [
        (around[-1], text)
        for text, around in awkward.texts
        if "data-actual" in around[-1] and any("evaluate-scenes" in one.get("data-table", "") for one in around)
    ]
    counts = {(cell["data-actual"], cell["data-predicted"]): int(text) for cell, text in cells}
    assert counts == table.value_counts().to_dict()
    keys = [attributes["data-metric"] for attributes, _ in awkward.marked("data-metric")]
    tested = looked_up(run, "evaluate-scenes:f1")  # of the others nothing was measured
    assert {f"evaluate-scenes:f1/{pointer(name)}" for name in tested} <= set(keys)
    assert any("~1" in key for key in keys)  # a slash in a name is none of the path
    assert "it's" in json.dumps(awkward.specs)
    assert '"NA"' in json.dumps(awkward.specs)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1), min_size=2, max_size=2
    )
)
def test_any_name_is_shown_by_the_confusion(names: list[str]) -> None:
    macros: Any = environment().get_template("macros.html.j2").module
    shown = Page(str(macros.confusion({"classes": names, "rows": [[1, 2], [3, 4]], "most": 3}, "x", "y.csv")))
    heads = [text for text, around in shown.texts if "data-class" in around[-1]]
    assert (
        heads == [name.strip() for name in (*names[:2], *names) if name.strip()]
        or len(set(names)) < 2
        or not all(name.strip() for name in names)
    )
    cells = [
        (around[-1]["data-actual"], around[-1]["data-predicted"], text)
        for text, around in shown.texts
        if "data-actual" in around[-1]
    ]
    assert cells == [(names[i], names[j], str(1 + 2 * i + j)) for i in range(2) for j in range(2)]


def test_every_image_has_a_text(page: Page) -> None:
    assert len(page.images) > 5
    assert all(image["alt"] for image in page.images)


def test_without_anything_the_page_says_of_everything_that_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((report_run.ROOT / "params.yaml").read_bytes())
    text = Page(report_run.page(tmp_path)).text
    assert "Parts are missing" in text
    for words in ("no headline figure", "no detector", "no segmenter", "has not read", "no baselines", "no times"):
        assert words in text
    for stage in ("Failed, or not run: ingest@digits", "compose@numbers", "evaluate@scenes", "detect@detector"):
        assert stage in text, stage


def test_a_detector_that_failed_is_said_and_the_rest_is_shown(run: Path) -> None:
    for path in (run / "data").rglob("*detector*"):
        path.unlink()
    for name in ("segment-segmenter", "read-digits", "evaluate_segmenter-segmenter"):
        (run / f"data/metrics/{name}.json").unlink()
    text = Page(report_run.page(run)).text
    assert "Parts are missing" in text
    assert "This run has no detector detector." in text
    assert "This run has no evaluation of the segmenter." in text
    assert "detected, cut out and read" not in text
    assert shown(looked_up(run, "evaluate-digits:accuracy"), "percent") in text


def test_a_run_without_scenes_has_no_such_section(run: Path) -> None:
    values = yaml.safe_load((run / "params.yaml").read_text())
    for section in ("sample", "ingest", "augment", "pretrain", "train", "evaluate", "predict", "anatomy"):
        del values[section]["scenes"]
    (run / "params.yaml").write_text(yaml.safe_dump(values))
    for path in (run / "data").rglob("*scenes*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    html = report_run.page(run)
    assert 'id="model-scenes"' not in html
    assert "Parts are missing" not in html
    assert 'id="model-digits"' in html


def test_after_a_refit_the_page_says_which_model_was_measured(run: Path, html: str) -> None:
    assert "No labelled" not in html
    measured = json.loads((run / "data/metrics/evaluate-digits.json").read_text())
    report_run.metrics(run, "evaluate-digits", {**measured, "evaluated_model": "without held-out images"})
    assert "No labelled" in report_run.page(run)


def test_a_sample_is_called_so_and_a_source_by_its_path() -> None:
    sample = {"sample": {"places": {"content": "generated_scenes"}}}
    ingested = {"ingest": {"places": {"source": "data/sources/places"}}}
    assert origin("places", ingested | sample).count("generated") == 1
    assert "data/sources/places" in origin("places", ingested)
    assert "my/photos.zip" in origin("scenes", {"ingest": {"scenes": {"source": "my/photos.zip"}}})


def test_generated_images_are_called_so_wherever_their_figures_stand(run: Path) -> None:
    path = run / "data/metrics/evaluate-scenes.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "generated": True}))
    values = yaml.safe_load((run / "params.yaml").read_text())
    values["ingest"]["scenes"]["source"] = "a/copy"  # of the sample, elsewhere
    (run / "params.yaml").write_text(yaml.safe_dump(values))
    text_of_page = Page(report_run.page(run)).text
    for words in (
        "scenes recognised (generated images)",
        "come from a/copy. They are generated",
        "30 generated training",
    ):
        assert words in text_of_page, words


@pytest.mark.parametrize(
    "seen",
    [
        None,
        Overlap(train=0, val=0, is_complete=True),
        Overlap(train=0, val=0, is_complete=False),
        Overlap(train=3, val=1, is_complete=True),
    ],
    ids=str,
)
def test_images_are_called_unseen_only_where_that_was_checked(run: Path, seen: Overlap | None) -> None:
    path = run / "data/metrics/evaluate_detector-detector.json"
    metrics = json.loads(path.read_text()) | ({"seen": dataclasses.asdict(seen)} if seen else {})
    path.write_text(json.dumps(metrics))
    text = re.sub(r"\s+([,.])", r"\1", Page(report_run.page(run)).text)
    assert re.search(rf"On [\d,]+ images with [\d,]+ objects {re.escape(claim(seen))}, the detector reaches", text)


def test_what_was_trained_on_are_the_training_images_alone(page: Page) -> None:
    text_of_page = page.text
    assert "digit_cnn on digits ( 30 training images, 3 epochs)" in text_of_page  # of 60 that were ingested


def test_the_baselines_say_how_many_images_each_was_trained_on(run: Path, page: Page) -> None:
    path = run / "data/metrics/baselines-digits.json"
    content = json.loads(path.read_text())
    assert "fitted on 30 images, those that the CNN was trained on too" in page.text
    content["models"]["CNN (digit_cnn)"]["images"] = 4500
    path.write_text(json.dumps(content))
    assert "fitted on 30 images, the CNN on 4,500" in Page(report_run.page(run)).text
    del content["models"]["CNN (digit_cnn)"]["images"]
    path.write_text(json.dumps(content))
    assert "how many the CNN was trained on is not recorded" in Page(report_run.page(run)).text


def test_weights_that_are_only_used_are_asked_for_no_training(run: Path) -> None:
    params = yaml.safe_load((run / "params.yaml").read_text())
    params["detect"]["photos"] = {**params["detect"]["detector"], "weights": "net.pt", "source": "photos"}
    (run / "params.yaml").write_text(yaml.safe_dump(params))
    figures = {"images": 8, "objects": 1234, "found": {"a cat": 1200, "=dog": 34}}
    (run / "data/metrics/detect-photos.json").write_text(json.dumps(figures))
    text = Page(report_run.page(run)).text
    text = text[text.index("The weights net.pt, used on photos. Nothing was trained or measured here.") :]
    assert "1,234 objects were found in 8 images. class objects a cat 1,200 =dog 34" in text
    assert "no evaluation of the detector" not in text


def test_the_background_comes_last(whole: Path) -> None:
    table = confusion(whole / "data/plots/evaluate_detector-detector-confusion.csv", last="background")
    assert table["classes"][-1] == "background"
    assert sum(map(sum, table["rows"])) == 9


def test_a_class_that_is_new_gone_or_renamed_is_said_at_its_set(run: Path) -> None:
    path = run / "data/metrics/ingest-scenes.json"
    changes = {"unit": "images", "former": "version 123456789abc, from photos", "new": {"sea <cold>": 1234},
               "gone": {"desert": 7}, "renamed": {"ice": {"now": "glacier", "same": 8, "of": 9}}}  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_changes": changes}))
    text = report_run.page(run)
    since = "since the set's former version (version 123456789abc, from photos)".replace("'", "&#39;")
    assert f"the class sea &lt;cold&gt; is new {since}: 1,234 images" in text
    assert f"the class desert is gone {since}, where it had 7 images" in text
    assert f"the class ice is now called glacier {since}: 8 of its 9 images are the same" in text
    assert text.index("Scenes</h3>") < text.index("the class ice is") < text.index('id="augmentation"')


def test_fewer_images_when_fewer_are_asked_for(run: Path) -> None:
    report_run.change(run, answers=7, pictures=2, masks=1)
    page = Page(report_run.page(run))
    assert [len(one["rows"]) for one in page.payloads if "rows" in one] == [7, 7, 2, 2]
    assert len(page.marked("data-mask")) == 1


def test_a_banner_stands_above_the_verdict(html: str) -> None:
    changed = {"train.digits.epochs": (16, 3), "ingest.digits.source": ("data/x", "<b>")}
    failed = ["train@digits failed (bug): it broke"]
    page = add_banner(
        html,
        run_banner(
            "merry-fox", "0123abcdef", failures=failed, changed_params=changed, former=["evaluate@digits (of …)"]
        ),
        "<p>another</p>",
    )
    banner = page[: page.index('class="verdict"')]
    for words in ("1 stage failed in the run merry-fox", "it broke", "2 parameters differ", "0123abcdef", "<p>another",
                  "Of an earlier run are the figures of evaluate@digits (of …)"):  # fmt: skip
        assert words in banner
    assert re.search(r"train.digits.epochs</code></th><td>16</td><td>3</td>", banner)
    assert "<td>&lt;b&gt;</td>" in banner
    complete = run_banner("merry-fox", "0123abcdef", failures=[], changed_params={})
    assert "All parameters are those of the commit 0123abcdef" in complete
    assert "failed" not in complete
    with pytest.raises(ValueError, match="no place for a banner"):
        add_banner("<html></html>", complete)


def test_results_of_an_earlier_run_are_named_with_their_moment_and_the_reason(run: Path) -> None:
    """After a stage by itself (train@digits) and a change of parameters (train.scenes.epochs) that no stage saw."""
    values = yaml.safe_load((run / "params.yaml").read_text())
    made, given = (
        {"train.scenes": values["train"]["scenes"] | {"epochs": 3}},
        [{"path": "data/models/digits", "md5": "a"}],
    )
    stages = {
        "train@digits": {"outs": [{"path": "data/models/digits", "md5": "b"}]},
        "evaluate@digits": {"deps": given, "outs": [{"path": "data/metrics/evaluate-digits.json", "md5": "c"}]},
        "train@scenes": {"params": {"params.yaml": made}, "outs": [{"path": "data/models/scenes", "md5": "d"}]},
        "report": {"params": {"params.yaml": {"train": {}}}, "outs": [{"path": "data/reports/index.html", "md5": "e"}]},
    }
    path = run / "data/metrics/evaluate-digits.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resources": {"finished": "2026-11-29T07:15:00+00:00"}}))
    (run / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    text_of_page = Page(report_run.page(run)).text
    for words in (
        "Look here",
        "evaluate@digits (2026-11-29 07:15 UTC; train@digits has made other results since)",
        "train@scenes (params.yaml has changed since the run in train.scenes.epochs)",
        "digits recognised (earlier run)",
    ):
        assert words in text_of_page, words
    assert "report (" not in text_of_page
    (run / "dvc.lock").write_text("stages: {a: [")  # DVC is writing it
    assert "earlier run" not in report_run.page(run)


def test_memory_of_a_gpu_is_shown_where_one_was_used(run: Path, html: str) -> None:
    assert "peak GPU memory" not in html
    assert "No stage used a GPU" in html
    path = run / "data/metrics/train-digits.json"
    metrics = json.loads(path.read_text())
    metrics.setdefault("resources", {})["gpu_peak_memory_bytes"] = 2_345_000_000
    path.write_text(json.dumps(metrics))
    changed = report_run.page(run)
    assert "peak GPU memory" in changed
    assert "2,345 MB" in changed
    assert "No stage used a GPU" not in changed
