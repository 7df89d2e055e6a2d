"""Fixtures of the segmenter's tests: MobileSAM with random weights, a photograph, and its embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnn_core.segmentation.inference.segmenter import Embedding, Segmenter
from tests.helpers.detector_files import photograph
from tests.helpers.sam_files import write_sam
from tests.helpers.segmenters import HEIGHT, WIDTH, segmenter


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_sam(tmp_path_factory.mktemp("weights"), "mobile_sam")


@pytest.fixture(scope="module")
def mobile(weights) -> Segmenter:
    return segmenter(weights)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return photograph(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def embedding(mobile, image) -> Embedding:
    return mobile.embed(image)
