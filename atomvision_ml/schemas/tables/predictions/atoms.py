"""Predictions of the task ``atoms``; one table for each of its models, all of one form."""

import pyarrow as pa

from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.tables.predictions.common import F64, FOUND_ATOM, I32, ITEM, MODEL_ID, ROLE
from atomvision_ml.schemas.vocabulary import MODELS


def _count(name: str, description: str) -> Column:
    return Column(name=name, type=I32, minimum=0, description=description)


def _square(name: str, description: str, nullable: bool = False) -> Column:
    return Column(name=name, type=F64, minimum=0, unit="Å²", nullable=nullable, description=description)


def _table(name: str) -> Table:
    return Table(
        key=f"predictions/{name}",
        description=f"Atomic columns found in each hold-out image (at most 16 Å of it), by {name} and its baselines.",
        columns=(
            ITEM,
            MODEL_ID,
            ROLE,
            _count("n_columns", "True columns that count: at least 5 % of the brightest, 1 Å inside the border."),
            _count("n_found", "Found columns that count; one at a column that does not count is no false one."),
            _count("n_matched", "Pairs of a counting column and a found one at most 0.5 Å apart (Hungarian)."),
            _square("squared_error_angstrom2", "Sum over the pairs of the squared distance."),
            Column(name="error_x_angstrom", type=F64, unit="Å", description="Sum over the pairs, found minus true x."),
            Column(name="error_y_angstrom", type=F64, unit="Å", description="The same of y."),
            _square(
                "bound_angstrom2",
                "Sum over the pairs of the joint Cramér-Rao bound of the squared distance; null without noise.",
                nullable=True,
            ),
            _count("n_atoms", "The same three counts with atoms in place of columns: true ones, not put together."),
            _count("n_found_atoms", "Found atoms that count, not put together."),
            _count("n_matched_atoms", "Pairs of a counting atom and a found one at most 0.5 Å apart."),
            Column(
                name="f1",
                type=F64,
                minimum=0,
                maximum=1,
                description="2 · pairs / (true + found columns); 1 where there are none.",
            ),
            Column(
                name="columns",
                type=pa.list_(FOUND_ATOM),
                description="Columns found: x, y in Å from the centre of pixel [0, 0], intensity.",
            ),
        ),
    )


ALL = tuple(_table(name) for name, task in MODELS.items() if task == "atoms")
