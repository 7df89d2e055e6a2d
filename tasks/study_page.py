"""Stage ``study_page``: write the study's tables and figures as data/reports/study.html."""

from __future__ import annotations

from cnn_core.study.page import write_study
from tasks.engine import events


def main() -> None:
    write_study(".", "data/reports/study.html")


if __name__ == "__main__":
    events.run_stage(main)
