"""The artifacts of a run in the UI: metrics and pictures of a stage, the summary of a run."""

import base64
import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from cnn_core.markdown import block, code, escape
from cnn_core.reporting import summary as report_summary
from flows.repository.graph import StageNode

# The limits of a picture, in pixels and bytes, because the server keeps it in its database.
SIDE, LARGEST = 1200, 300_000


RETRIES = 2  # of a request, 2 and 4 s later; by Prefect's own five a server that is away costs two minutes a request


@contextlib.contextmanager
def if_it_can_be_shown(what: str) -> Iterator[None]:
    """Turn an error into a warning, because what is only shown must not cost the stage.

    While the server is away, it is asked once each time, and not again.
    """
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0 if _Server.away else RETRIES}):
            yield
        _Server.away = False
    except Exception as error:
        _Server.away = isinstance(error, httpx.TransportError)
        get_run_logger().warning("%s could not be shown: %s", what, error or type(error).__name__)


class _Server:
    away = False  # whether the last request of this process found no server


def publish_results(node: StageNode, root: Path) -> None:
    for path in node.metrics:
        metrics = json.loads((root / path).read_text())
        rows = [{"metric": key, "value": value} for key, value in metrics.items() if not isinstance(value, dict | list)]
        create_table_artifact(key=f"{node.slug}-metrics", table=rows, description=f"{node.name}: {node.description}")
    plots = [root / path for path in node.outputs if path.endswith(".png")]
    if pictures := [markdown for path in plots if (markdown := picture(path))]:
        create_markdown_artifact("\n\n".join(pictures), key=f"{node.slug}-plots", description=f"{node.name}: plots")


def picture(path: Path) -> str:
    """Write a picture as Markdown, made smaller where it is large; empty where there is none or it stays too large."""
    if not path.is_file():
        return ""
    kind, data = "png", path.read_bytes()
    if len(data) > LARGEST:
        kind, data = "jpeg", _smaller(data)
    if len(data) > LARGEST:
        return ""
    return (
        f"**{escape(path.stem)}**\n\n![{escape(path.stem)}](data:image/{kind};base64,{base64.b64encode(data).decode()})"
    )


def publish_summary(
    text: str, root: Path, nodes: Sequence[StageNode], experiment: str | None = None, *, former: Sequence[str] = ()
) -> None:
    """Publish the report in short, below the stages with ``former`` figures, and ``text`` on how the stages went."""
    reports = [path for node in nodes for path in node.outputs if path.startswith("data/reports")]
    apply = f"{code(f'dvc exp apply {experiment}')} brings it into the checkout: " if experiment else ""
    places = [f"- report: {apply}{code(root / path)}" for path in reports if experiment or (root / path).exists()]
    parts = [block(text.strip()), "", *places]
    if any((root / path).exists() for path in reports):
        with if_it_can_be_shown("the report in short"):
            parts = [report_summary.summary(root), *parts]
            if former:
                parts.insert(0, f"**Incomplete: of an earlier run are the figures of {escape(', '.join(former))}**\n")
    create_markdown_artifact("\n".join(parts), key="summary", description="The run in short")


def _smaller(data: bytes) -> bytes:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()
