"""A classifier's answers to the images of a test part, and which images two runs have in common."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

ANSWER_COLUMNS = ["id", "label", "predicted"]
ROW_COLUMNS = ["id", "split", "sha256"]


def read_answers(path: Path) -> pd.DataFrame:
    """Read the answers that the stage evaluate wrote: id, label and predicted label."""
    return pd.read_parquet(path, columns=ANSWER_COLUMNS)


def read_rows(raw: Path) -> pd.DataFrame | None:
    """Read id, split and SHA-256 of every image of a RAW set; None where there is no such set."""
    parts = sorted(raw.glob("part-*.parquet"))
    if not parts:
        return None
    return pd.concat([pd.read_parquet(part, columns=ROW_COLUMNS) for part in parts], ignore_index=True)


def by_hash(answers: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Replace the images' ids by the SHA-256 of their pixels.

    Another source may have given the images other names.

    Args:
        rows: of the RAW set that was answered. Where an image comes twice (a publisher's test part
            may repeat some), its first answer counts.

    Raises:
        ValueError: an id is not among the rows, so the answers are of another set.
    """
    hashes = answers["id"].map(rows.set_index("id")["sha256"])
    if hashes.isna().any():
        raise ValueError(f"{answers.loc[hashes.isna(), 'id'].iloc[0]} was predicted but is not in the set")
    return answers.assign(id=hashes).drop_duplicates("id", ignore_index=True)


def shared_hashes(champion: pd.DataFrame, challenger: pd.DataFrame, *, unseen: bool = False) -> set[str]:
    """Give the SHA-256s of the images that both models are measured on.

    Those are the images in the test parts of both RAW sets.

    Args:
        champion: rows of the RAW set that the champion was trained on (`read_rows`).
        challenger: rows of the challenger's RAW set.
        unseen: count also images that came after the champion, which it has not seen either.
    """
    tested = set(challenger.loc[challenger["split"] == "test", "sha256"])
    if unseen:
        return tested - set(champion.loc[champion["split"].isin(("train", "val")), "sha256"])
    return tested & set(champion.loc[champion["split"] == "test", "sha256"])
