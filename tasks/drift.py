"""How a delivery differs from the source that it is to be added to; called by tasks/inbox.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnn_core.inbox.deliveries import Growth, Labelled
from cnn_core.inbox.drift import Drift, DriftParams, Sample, check_drift, pixel_measures

SIDE = 96  # pixels of the squares that photographs are measured as; the champion takes them larger or smaller


class DriftCheck:
    """``DriftCheck(...)(new)``: the old images are measured once, each delivery against them.

    Args:
        champion: a model folder for the features, or None. One that cannot be used any more (of an earlier version of
            this project, say) stops nobody: ``note`` says so.
    """

    def __init__(
        self, growth: Growth, old: Sequence[Labelled], classes: Sequence[str], params: DriftParams, champion: str | None
    ) -> None:
        self._growth, self._classes, self._params, self._champion = growth, classes, params, champion
        self.note = ""
        try:
            self._old = self._sample(old)
        except ValueError as error:
            self._champion, self.note = None, f"features were not compared: {error}"
            self._old = self._sample(old)

    def __call__(self, new: Sequence[Labelled]) -> list[Drift]:
        """
        Raises:
            ValueError: there are too few images to tell.
        """
        random = np.random.default_rng(self._params.seed)
        few = sorted(random.choice(len(new), min(len(new), self._params.most), replace=False))
        return check_drift(self._old, self._sample([new[row] for row in few]), self._classes, self._params)

    def _sample(self, images: Sequence[Labelled]) -> Sample:
        from cnn_core.inbox.features import last_features  # torch, which only a champion needs

        pixels = self._growth.pixels([image.image for image in images], SIDE)
        features = last_features(self._champion, pixels) if self._champion else None
        labels = np.array([image.label for image in images])
        return Sample(labels=labels, pixels=pixel_measures(pixels), features=features)
