"""Stage ``report``: write one self-contained page on the run, a pure function of its inputs."""

from __future__ import annotations

from cnn_core.params import load_section
from cnn_core.reporting.page import ReportParams, write_report
from tasks.engine import events

PARAMS = ReportParams


def main() -> None:
    params = load_section(ReportParams, "report")
    write_report(params, root=".", output="data/reports/index.html")


if __name__ == "__main__":
    events.run_stage(main)
