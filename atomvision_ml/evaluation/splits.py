"""Which item belongs to which split. Belongs here: the rule of the splits and the frozen manifest made with it.

All items of a group lie in one split, the same for every task. Groups are compositions, so that no polymorph, no
database twin and no variant of a training structure is ever a test structure; or prototypes, so that a test structure
is of an arrangement of atoms that no training has seen.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomvision_ml.schemas.vocabulary import SPLITS, TASKS

log = logging.getLogger(__name__)


class SplitParameters(BaseModel):
    """The shares of the splits and their seed; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    val_fraction: float = Field(default=0.1, gt=0, lt=1, description="Share of the items for early stopping.")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Share of the items for the hold-out.")
    seed: int = Field(default=0, ge=0, description="Seed of the hash that decides.")
    group_by: Literal["composition", "prototype"] = Field(
        default="composition", description="What is never divided: `split_group` of the materials, or the prototype."
    )
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
    """The split of each group: stratified over the classes, reproducible, and without dividing a group.

    Groups are taken from the largest to the smallest, equal ones in the order of a hash of their names, and each goes
    where it brings the numbers of items of each class nearest to the wanted shares (least growth of
    Σ (have − wanted)²/wanted). Then, where a class with at least three groups is still absent from a split, its
    smallest group that can be spared moves there.

    Args:
        groups: group of each item.
        classes: class of each item; a group may hold several.
        parameters: shares and seed.

    Returns:
        ``train``, ``val`` or ``test`` by group; the order of the items does not matter.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len(groups) != len(classes):
        raise ValueError(f"{len(groups)} groups, but {len(classes)} classes")
    chosen = parameters or SplitParameters()
    members: dict[str, Counter[str]] = {}
    for group, name in zip(groups, classes, strict=True):
        members.setdefault(group, Counter())[name] += 1
    total = Counter(classes)
    shares = {"test": chosen.test_fraction, "val": chosen.val_fraction}
    shares["train"] = 1 - sum(shares.values())
    have: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    splits: dict[str, str] = {}
    for group in sorted(members, key=lambda group: (-members[group].total(), _hash(group, chosen.seed))):
        growth = {split: _growth(members[group], have[split], total, shares[split]) for split in SPLITS}
        splits[group] = min(SPLITS, key=lambda split: (round(growth[split], 9), _hash(group + split, chosen.seed)))
        have[splits[group]] += members[group]
    _repair(members, splits)
    return splits


def _growth(own: Counter[str], have: Counter[str], total: Counter[str], share: float) -> float:
    """How much a split's Σ (have − wanted)²/wanted grows when the group joins it."""
    return sum(
        count * (count + 2 * (have[name] - share * total[name])) / (share * total[name]) for name, count in own.items()
    )


def _repair(members: Mapping[str, Counter[str]], splits: dict[str, str]) -> None:
    """Give each split a group of each class that has at least three, without taking a class's last one."""
    by_class: dict[str, list[str]] = {}
    for group in sorted(members, key=lambda group: (members[group].total(), group)):
        for name in members[group]:
            by_class.setdefault(name, []).append(group)
    large = {name: own for name, own in by_class.items() if len(own) >= len(SPLITS)}
    for name, own in sorted(large.items(), key=lambda item: (len(item[1]), item[0])):
        for split in SPLITS:
            if all(splits[group] != split for group in own):
                spare = next((group for group in own if not _is_last(group, large, splits)), None)
                if spare is None:
                    log.warning("no group of class %r can be spared for the %s split", name, split)
                else:
                    splits[spare] = split


def _is_last(group: str, by_class: Mapping[str, list[str]], splits: Mapping[str, str]) -> bool:
    """Whether some class would be gone from this group's split without it."""
    return any(
        group in own and all(splits[other] != splits[group] for other in own if other != group)
        for own in by_class.values()
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
    slabs = _grouped(materials, chosen.group_by).select(pl.col(by).alias("slab_id"), "split_group")
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


def prototype_of(reduced_formula: str, space_group_number: int) -> str:
    """Stoichiometry without names and space group, e.g. ``AB2|187`` of MoS2.

    The number of atoms is left out on purpose: databases hold the same arrangement in cells of different size.
    """
    from ase.formula import Formula

    return f"{Formula(reduced_formula).stoichiometry()[0]}|{space_group_number}"


def _grouped(materials: pl.DataFrame, group_by: str) -> pl.DataFrame:
    if group_by == "composition":
        return materials
    pairs = materials.select("reduced_formula", "space_group_number").iter_rows()
    return materials.with_columns(pl.Series("split_group", [prototype_of(*pair) for pair in pairs], dtype=pl.String))


def split_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Items in each split."""
    counts = Counter(row["split"] for row in rows)
    return {split: counts[split] for split in SPLITS}


def _hash(text: str, seed: int) -> str:
    """The same in every process and on every machine."""
    return hashlib.sha256(f"{seed}\x1f{text}".encode()).hexdigest()
