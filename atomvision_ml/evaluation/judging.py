"""Applying a model and its baselines to hold-out items, in several processes, chunk by chunk.

Belongs here: the loop. What is asked of an item is a judge: a function of the row and an :class:`ItemReader` that gives
one row of a predictions table for each method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob, open_all
from atomvision_ml.workers import end_with_parent

Progress = Callable[[int, "int | None"], None]
Row = dict[str, Any]
Judge = Callable[[Row, ItemReader], list[Row]]

_CHUNK = 16


def items_of(holdout: pl.DataFrame, task: str) -> list[Row]:
    """The hold-out's items of a task; raises ValueError if there are none."""
    rows = holdout.filter(pl.col("task") == task).sort("blob", "index", "item_id").to_dicts()
    if not rows:
        raise ValueError(f"the hold-out has no items of the task {task!r}")
    return rows


def judge_items(
    table: Any,
    judge: Judge,
    rows: Sequence[Row],
    open_blob: OpenBlob,
    processes: int,
    progress: Progress | None,
) -> pa.Table:
    """Judge chunk by chunk; what is done is kept as Arrow, a tenth of the size of dictionaries."""
    folders = open_all(rows, open_blob)
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    parts, done = [], 0
    work = partial(_judge_chunk, judge, folders)
    for chunk, judged in zip(chunks, _mapped(work, chunks, processes), strict=True):
        parts.append(table.from_rows(judged))
        done += len(chunk)
        if progress is not None:
            progress(done, len(rows))
    return pa.concat_tables(parts)


def _mapped(work: Callable[[Any], list[Row]], chunks: Sequence[Any], processes: int) -> Iterator[list[Row]]:
    if processes <= 1 or len(chunks) == 1:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_compute_alone) as pool:
        yield from pool.map(work, chunks)


def _compute_alone() -> None:
    """One thread in each worker, of torch and of BLAS: the items are divided already, and waiting threads spin."""
    import torch
    from threadpoolctl import threadpool_limits

    end_with_parent()
    torch.set_num_threads(1)
    threadpool_limits(1)


def _judge_chunk(judge: Judge, folders: Mapping[str, Path], rows: Sequence[Row]) -> list[Row]:
    reader = ItemReader(folders.__getitem__)

    return [answer for row in rows for answer in judge(row, reader)]
