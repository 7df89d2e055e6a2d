"""Shared by the tests of detectors' training: a training with all its checkpoints."""

from __future__ import annotations

import copy

import torch

from cnn_core.detection.training.data import open_source
from cnn_core.detection.training.job import DetectorJob, architecture
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.detection.training.train import train
from cnn_core.params import from_mapping
from tests.helpers.detection_sets import detector_params


def params_of(**changes):
    return from_mapping(TrainDetectorParams, detector_params(**changes), "train_detector")


def job_of(params, folder, source):
    return DetectorJob(
        params=params,
        data=open_source(source, outlines="seg" in params.model, rotates=params.degrees > 0),
        architecture=architecture(params.model, params.weights),
        start=params.weights,
        loaders=0,
    )


def trained(job, folder, resume=None):
    """Every checkpoint, copied as a file would hold it; Ultralytics' own files lie in ``folder``."""
    checkpoints = []
    train(
        job,
        folder=folder / "run",
        device=torch.device("cpu"),
        resume=resume,
        on_step=lambda _: None,
        on_epoch=lambda _, make: checkpoints.append(copy.deepcopy(make())),
    )
    return checkpoints
