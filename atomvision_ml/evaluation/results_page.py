"""The leaderboard as a page for docs: ``python -m atomvision_ml.evaluation.results_page --root ROOT``.

Belongs here: what the page says. All of its figures are read from the lake; none is written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer

from atomvision_ml.catalog.views import PUBLISHED_FIGURES
from atomvision_ml.evaluation.gallery.build import result_tables
from atomvision_ml.evaluation.gallery.entries import dose_words
from atomvision_ml.evaluation.metrics import over_seeds
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.evaluation.tasks.lattice import NO_ANSWER
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, TASKS
from atomvision_ml.storage.keys import EVALUATION_COMPARISONS, EVALUATION_HOLDOUT, EVALUATION_METRICS

if TYPE_CHECKING:
    from atomvision_ml.storage.lake import Lake

Row = dict[str, Any]

_HEAD = """# Results at the size `{size}`

Written from the published tables, not by hand. The command that makes the graph, and the one that makes this page:

```
{command}
python -m atomvision_ml.evaluation.results_page --root .atomvision --out docs/results/leaderboard_{size}.md{option}
```

{items} items of {images} test images ({sources}); no training has seen their compositions. Values are means over
{seeds} training seed(s), in brackets 95 % bootstrap intervals over split groups. **Bold** are models, the others are
their classical and trivial baselines. `unambiguous`, `clear` and `resolvable`: [evaluation](../evaluation.md). All
slices, among them bins of strain, contrast, periods in view and pixel size, are in `evaluation.leaderboard`; all
differences in `evaluation.comparisons`. Data version of the figures: `{version}`.
"""


def results_page(lake: Lake, command: str = "") -> tuple[str, str]:
    """The size of the graph in a lake, and the page about it in Markdown.

    Args:
        lake: where the figures are published.
        command: what made the graph; by default ``make <size>``.

    Raises:
        NotPublishedError: metrics, comparisons or the hold-out are not published.
    """
    every = lake.scan(EVALUATION_METRICS).collect()
    comparisons = lake.scan(EVALUATION_COMPARISONS).collect()
    items = lake.scan(EVALUATION_HOLDOUT).select("item_id", "image_id", "source").collect()
    metrics = over_seeds(every)
    size = str(every["size"][0])
    head = _HEAD.format(
        size=size,
        command=command or f"make {size}",
        option=f' --command "{command}"' if command else "",
        items=f"{items.height:,}",
        images=f"{items['image_id'].n_unique():,}",
        sources=", ".join(sorted(items["source"].unique())),
        seeds=int(metrics["n_seeds"].max() or 1),  # type: ignore[arg-type]
        version=lake.facts(EVALUATION_METRICS).data_version[:12],
    )
    present = [task for task in TASKS if (every["task"] == task).any()]
    return size, "\n".join([head, *(part for task in present for part in _task(task, metrics, comparisons))])


def _task(task: str, metrics: pl.DataFrame, comparisons: pl.DataFrame) -> list[str]:
    protocol = PROTOCOLS[task]
    parts = [f"## {protocol.title}\n"]
    for made in result_tables(metrics, task):
        parts.append(f"{made['slice'].replace('_', ' ')}, {made['dose']}, {made['n_items']} items\n")
        cells = [[_method(row), *(_value(cell) for cell in row["cells"])] for row in made["rows"]]
        parts.append(_markdown(["method", *made["metrics"]], cells))
    quoted = [
        f"{value:g} ({protocol.label(metric)}{f', {model}' if model else ''}; {where})"
        for own, model, metric, value, where in PUBLISHED_FIGURES
        if own == task
    ]
    if quoted:
        parts.append(f"Published in the AtomVision paper: {'; '.join(quoted)}.\n")
    parts += _differences(task, comparisons)
    if task == "lattice":
        parts += _confusion(metrics)
    return parts


def _confusion(metrics: pl.DataFrame) -> list[str]:
    """Confusion matrices of the models on all items at 1000 e/Å²: shares of each class, with intervals."""
    own = metrics.filter((pl.col("task") == "lattice") & (pl.col("slice") == "all|1000") & (pl.col("role") == "model"))
    parts = []
    for (model,), rows in own.sort("model").group_by("model", maintain_order=True):
        cells = {row["metric"]: row for row in rows.to_dicts()}
        table = [
            [true, *(_share(cells.get(_cell_name(true, found))) for found in (*BRAVAIS_LATTICES, NO_ANSWER))]
            for true in BRAVAIS_LATTICES
            if f"recall_{true}" in cells
        ]
        parts.append(f"What {str(model).replace('_', ' ')} takes each class for, all, 1000 e/Å²\n")
        parts.append(_markdown(["class", *BRAVAIS_LATTICES, "no answer"], table))
    return parts


def _cell_name(true: str, found: str) -> str:
    return f"recall_{true}" if true == found else f"confusion_{true}_as_{found}"


def _share(cell: Row | None) -> str:
    if cell is None or cell["high"] is None:
        return "–" if cell is None else f"{cell['value']:.3f}"
    return f"{cell['value']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})" if cell["high"] > 0 else "0"


def _differences(task: str, comparisons: pl.DataFrame) -> list[str]:
    metric, where = PROTOCOLS[task].headline
    own = comparisons.filter((pl.col("task") == task) & (pl.col("metric") == metric) & (pl.col("slice") == where))
    own = own.filter(pl.col("is_best_baseline") | (pl.col("rival_role") == "model"))
    if own.is_empty():
        return []
    which, _, dose = where.partition("|")
    cells = [
        [
            row["model"],
            f"{row['rival']}{' (best baseline)' if row['is_best_baseline'] else ''}",
            f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
            row["verdict"],
        ]
        for row in own.sort("model", "rival").iter_rows(named=True)
    ]
    said = f"Paired differences of {PROTOCOLS[task].label(metric)}, {which.replace('_', ' ')}, {dose_words(dose)}\n"
    return [said, _markdown(["model", "against", "gain", "verdict"], cells)]


def _method(row: Row) -> str:
    name = str(row["model"]).replace("_", " ")
    return f"**{name}**" if row["role"] == "model" else f"{name} ({row['role']})"


def _value(cell: Row) -> str:
    return f"{cell['value']} ({cell['interval']})" if cell["interval"] else str(cell["value"])


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def main(
    root: Annotated[str, typer.Option(help="Root of the lake: a folder, or s3://bucket/prefix.")] = ".atomvision",
    out: Annotated[Path | None, typer.Option(help="File; by default docs/results/leaderboard_<size>.md.")] = None,
    command: Annotated[str, typer.Option(help="What made the graph, for the page; by default make <size>.")] = "",
) -> None:
    """Write the results of a lake as a page."""
    from atomvision_ml.storage.lake import Lake

    size, text = results_page(Lake(root), command)
    path = out or Path("docs") / "results" / f"leaderboard_{size}.md"
    path.write_text(text, encoding="utf-8")
    typer.echo(str(path))


if __name__ == "__main__":
    typer.run(main)
