"""Which item belongs to which split. Belongs here: the rule of the splits and the frozen manifest made with it.

Splits are by composition: all items of a ``split_group`` lie in one split, the same for every task, so that no
polymorph, no database twin and no variant of a training structure is ever a test structure.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomvision_ml.schemas.vocabulary import SPLITS, TASKS


class SplitParameters(BaseModel):
    """The shares of the splits and their seed; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    val_fraction: float = Field(default=0.1, gt=0, lt=1, description="Share of the groups for early stopping.")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Share of the groups for the hold-out.")
    seed: int = Field(default=0, ge=0, description="Seed of the hash that decides.")
    is_one_slab_per_material: bool = Field(
        default=True, description="Only images of each material's representative: no crystal counts twice."
    )

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> SplitParameters:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing to train on")
        return self


def assign_splits(
    groups: Sequence[str], classes: Sequence[str], parameters: SplitParameters | None = None
) -> dict[str, str]:
    """The split of each group.

    A group's place is a hash of its name (stable: other groups do not move it, so a model never met a later test
    image in training), below ``test_fraction`` test, then val, then train. Where a class with at least three groups
    would be absent from a split, the group of that class that lies nearest to the split's interval moves there.

    Args:
        groups: group of each item.
        classes: class of each item; a group may hold several.
        parameters: shares and seed.

    Returns:
        ``train``, ``val`` or ``test`` by group; never two for one.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len(groups) != len(classes):
        raise ValueError(f"{len(groups)} groups, but {len(classes)} classes")
    chosen = parameters or SplitParameters()
    place = {group: _place(group, chosen.seed) for group in sorted(set(groups))}
    intervals = _intervals(chosen)
    splits = {group: _split_at(value, intervals) for group, value in place.items()}
    members: dict[str, set[str]] = {}
    for group, name in zip(groups, classes, strict=True):
        members.setdefault(name, set()).add(group)
    moved: set[str] = set()
    for name in sorted(members, key=lambda name: (len(members[name]), name)):
        _repair(sorted(members[name]), members, splits, place, intervals, moved)
    return splits


def _repair(
    own: list[str],
    members: Mapping[str, set[str]],
    splits: dict[str, str],
    place: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    moved: set[str],
) -> None:
    """Give each split a group of this class, without taking another class's last one or moving a group twice."""
    if len(own) < len(SPLITS):
        return
    for split in ("test", "val", "train"):
        if any(splits[group] == split for group in own):
            continue
        low, high = intervals[split]
        free = [group for group in own if group not in moved and not _is_last(group, members, splits)]
        if free:
            nearest = min(free, key=lambda group: (max(low - place[group], place[group] - high), group))
            splits[nearest] = split
            moved.add(nearest)


def _is_last(group: str, members: Mapping[str, set[str]], splits: Mapping[str, str]) -> bool:
    """Whether a class with groups enough for all splits has no other group where this one lies."""
    return any(
        group in own
        and len(own) >= len(SPLITS)
        and not any(splits[other] == splits[group] for other in own if other != group)
        for own in members.values()
    )


def training_set_rows(
    task: str, images: pl.DataFrame, materials: pl.DataFrame, parameters: SplitParameters | None = None
) -> list[dict[str, Any]]:
    """The frozen manifest of a task.

    Args:
        task: one of :data:`TASKS`.
        images: rows of ``images/stem``, of one or several sources.
        materials: rows of ``structures/materials``.
        parameters: shares, seed, one slab per material or all.

    Returns:
        Rows of ``models/training_sets``, ordered by image. Images whose slab belongs to no material are left out.

    Raises:
        ValueError: an unknown task, or no image belongs to a material.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; known are {', '.join(TASKS)}")
    chosen = parameters or SplitParameters()
    by = "representative_slab_id" if chosen.is_one_slab_per_material else "slab_ids"
    slabs = materials.select(pl.col(by).alias("slab_id"), "split_group")
    if by == "slab_ids":
        slabs = slabs.explode("slab_id")
    joined = images.join(slabs, on="slab_id", how="inner").sort("image_id")
    if joined.is_empty():
        raise ValueError(
            f"none of {images.height} images shows a slab of {materials.height} materials; "
            "materialise structures/materials and images/stem from the same structures/slabs"
        )
    splits = assign_splits(joined["split_group"].to_list(), joined["bravais_lattice"].to_list(), chosen)
    kept = joined.select(
        "image_id",
        "slab_id",
        "source",
        "split_group",
        "blob",
        "index",
        "pixel_size_angstrom",
        "bravais_lattice",
        "is_ambiguous",
    )
    return [
        {"item_id": f"{task}:{row['image_id']}", "task": task, "split": splits[row["split_group"]], **row}
        for row in kept.iter_rows(named=True)
    ]


def split_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Items in each split."""
    counts = Counter(row["split"] for row in rows)
    return {split: counts[split] for split in SPLITS}


def _place(group: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the group's name and the seed."""
    digest = hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _intervals(parameters: SplitParameters) -> dict[str, tuple[float, float]]:
    test, val = parameters.test_fraction, parameters.test_fraction + parameters.val_fraction
    return {"test": (0.0, test), "val": (test, val), "train": (val, 1.0)}


def _split_at(value: float, intervals: Mapping[str, tuple[float, float]]) -> str:
    return next(split for split, (low, high) in intervals.items() if low <= value < high)
