"""The study's experiments on few digits: what they measure, and that the page says what the tables say."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cnn_core.study import beyond as study_beyond
from cnn_core.study import figures
from cnn_core.study.experiments import EXPERIMENTS, SHIFTS, ExperimentParams, measure
from cnn_core.study.networks import Digits, accuracy, cnn, fit, linear, mlp, size_of, width_for
from cnn_core.study.page import SECTIONS, write_study


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Generated: a bright bar at one of ten heights, in noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 10
    images = 0.3 * torch.rand(120, 1, 28, 28, generator=generator)
    for row, label in enumerate(labels):
        images[row, 0, 4 + 2 * label : 6 + 2 * label, 6:22] = 1
    return Digits(images=images, labels=labels)


def few(**changes: object) -> ExperimentParams:
    return ExperimentParams(**{"source": "", "train": 100, "test": 20, "draws": 128, "repeats": 1, "seed": 0} | changes)


def test_the_loop_learns_and_is_repeatable(digits: Digits) -> None:
    first = fit(linear, digits[:100], draws=2000, seed=3)
    assert accuracy(first.network, digits[100:]) > 0.9
    assert first.losses[-1] < 0.5 * first.losses[0]
    again = fit(linear, digits[:100], draws=2000, seed=3)
    torch.testing.assert_close(dict(again.network.state_dict()), dict(first.network.state_dict()))


def test_networks_are_as_large_as_they_are_asked_to_be() -> None:
    for convolutions in (1, 3, 8):
        width = width_for(8000, functools.partial(cnn, convolutions=convolutions))
        network = cnn(width=width, convolutions=convolutions)
        assert size_of(network) == pytest.approx(8000, rel=0.2)
        assert sum(isinstance(layer, torch.nn.Conv2d) for layer in network) == convolutions
        assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert cnn(width=4, maxout=3)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert mlp(width=8)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_change_begins_with_none_and_grows(name: str, digits: Digits) -> None:
    images, shift = digits.images[:4], SHIFTS[name]
    torch.testing.assert_close(shift.apply(images, shift.strengths[0]), images)
    far = [(shift.apply(images, strength) - images).abs().mean().item() for strength in shift.strengths]
    assert far[-1] > far[1] > 0


def test_a_translation_goes_right(digits: Digits) -> None:
    moved = SHIFTS["translation"].apply(digits.images[:1], 3)
    torch.testing.assert_close(moved[..., 3:], digits.images[:1, ..., :-3])


def test_series_are_what_they_are_called() -> None:
    made = study_beyond.series(400, 0)
    assert made.values.shape == (400, 1, study_beyond.LENGTH)
    assert set(made.waves.tolist()) == {0, 1, 2, 3}
    spectrum = np.abs(np.fft.rfft(made.values[made.waves == 0, 0].numpy() - 0, axis=1))[:, 1:]
    peak = 1 + spectrum.argmax(1)
    assert np.abs(peak - made.periods[made.waves == 0].numpy()).mean() < 0.5  # the periods of the sines are there


def test_a_one_dimensional_cnn_learns_both_heads() -> None:
    rows = list(study_beyond.series_rows(study_beyond.series(600, 0), study_beyond.series(200, 1),
                                         draws=6000, repeats=1, seed=0))  # fmt: skip
    found = pd.DataFrame(rows).set_index("model")
    assert found.loc["1-D CNN", "accuracy"] > 0.5  # of four
    assert found.loc["1-D CNN", "error_periods"] < 0.6 * found.loc["1-D CNN", "error_of_the_mean"]
    assert found["parameters"].max() < 1.2 * found["parameters"].min()


def test_the_way_up_gives_the_digit_back(digits: Digits) -> None:
    rows = [row for row, _ in study_beyond.upsampling_rows(digits[:100], digits[100:], draws=3000, repeats=1, seed=0)]
    errors = {row["model"]: row["error"] for row in rows}
    assert errors["U-Net"] < 0.7 * errors["the spoilt image itself"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """Every experiment on a handful of draws, with its figure."""
    root = tmp_path_factory.mktemp("study")
    (root / "data/study").mkdir(parents=True)
    for name in EXPERIMENTS:
        measure(name, digits[:100], digits[100:], few(), lambda: None).to_csv(
            root / f"data/study/{name}.csv", index=False
        )
    learned, unseen = study_beyond.series(40, 0), study_beyond.series(20, 1)
    series = study_beyond.series_rows(learned, unseen, draws=64, repeats=1, seed=0)
    pd.DataFrame(series).to_csv(root / "data/study/series.csv", index=False)
    given = study_beyond.upsampling_rows(digits[:64], digits[100:], draws=64, repeats=1, seed=0)
    pd.DataFrame([row for row, _ in given]).to_csv(root / "data/study/upsampling.csv", index=False)
    for name in figures.DRAWN:
        table = pd.read_csv(root / f"data/study/{name}.csv")
        figures.draw(name, table, root / f"data/study/{name}.png")
    figures.draw_upsampling(root / "data/study/upsampling.png", {"as they are": digits.images[:3].numpy()})
    return root


@pytest.mark.slow
def test_the_page_says_what_the_tables_say(study: Path) -> None:
    write_study(study, study / "study.html")
    page = (study / "study.html").read_text()
    assert page.count("<img") == len(SECTIONS) == page.count("<section")
    table = pd.read_csv(study / "data/study/learning_curves.csv")
    most = table[(table["images"] == 100) & (table["model"] == "CNN")].set_index("pixels")["accuracy"]
    assert f"the CNN reads {most['in their places']:.1%}" in page
    assert f"falls to {most['permuted']:.1%}" in page
    assert "nan" not in page.split("data:image")[0].lower().replace("dominant", "")


def test_a_missing_experiment_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"learning_curves\.csv does not exist: run `make study`"):
        write_study(tmp_path, tmp_path / "study.html")
