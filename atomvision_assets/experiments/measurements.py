"""Assets that measure micrographs: lattice planes and nanoparticles."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.experiments.measurement_checks import MEASURED, audit_measured
from atomvision_assets.store import Product, Store, Work
from atomvision_ml.experiments.facet_rows import FacetRowParameters
from atomvision_ml.experiments.particles import ParticleParameters
from atomvision_ml.storage.keys import EXPERIMENTS_FACETS, EXPERIMENTS_MICROGRAPHS, EXPERIMENTS_PARTICLES

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
Measured = tuple[list[Row], Callable[[], bytes] | None]
"""Rows of a micrograph, and how to draw it if it is worth a picture."""


class FacetsConfig(dg.Config, FacetRowParameters):
    """How spots are found and planes decided."""


class ParticlesConfig(dg.Config, ParticleParameters):
    """What is a particle."""


@table_asset(
    EXPERIMENTS_FACETS,
    code_version="1",
    kinds={"python", "parquet"},
    deps=[EXPERIMENTS_MICROGRAPHS],
    checks=MEASURED,
    automation_condition=when_inputs_change(),
    description="The picture is the newest image, of those measured anew, with a decided plane.",
)
def facets(context: dg.AssetExecutionContext, store: Store, config: FacetsConfig) -> dg.MaterializeResult:
    """Find spots in the day's micrographs and assign lattice planes."""
    from atomvision_ml.experiments.facet_figure import facet_png
    from atomvision_ml.experiments.facet_rows import facet_rows

    parameters = FacetRowParameters(**config.model_dump())

    def measure(micrograph: Row, image: "np.ndarray") -> Measured:
        rows, spots, found = facet_rows(micrograph, image, parameters)
        if spots is None or found is None or not found.is_decided:
            return rows, None
        edge = micrograph["pixel_size_x_nm"]
        return rows, partial(facet_png, image, spots, found, None if edge is None else 10 * edge)

    return _publish(store.begin(context), measure, parameters.model_dump(mode="json"), "spot")


@table_asset(
    EXPERIMENTS_PARTICLES,
    code_version="2",
    kinds={"python", "parquet"},
    deps=[EXPERIMENTS_MICROGRAPHS],
    checks=MEASURED,
    automation_condition=when_inputs_change(),
    description="The picture is the newest image, of those measured anew, with three particles or more.",
)
def particles(context: dg.AssetExecutionContext, store: Store, config: ParticlesConfig) -> dg.MaterializeResult:
    """Find the particles of the day's micrographs and class their shapes."""
    from atomvision_ml.experiments.particle_rows import particle_rows, particles_png, with_classes

    parameters = ParticleParameters(**config.model_dump())

    def measure(micrograph: Row, image: "np.ndarray") -> Measured:
        rows, field = particle_rows(micrograph, image, parameters)
        if field is None or len(field.particles) < 3:
            return rows, None
        return rows, partial(particles_png, image, field)

    return _publish(store.begin(context), measure, parameters.model_dump(mode="json"), "particle", with_classes)


def _publish(
    work: Work,
    measure: "Callable[[Row, np.ndarray], Measured]",
    parameters: Row,
    number: str,
    finish: Callable[[list[Row]], list[Row]] = list,
) -> dg.MaterializeResult:
    """Measure the day's micrographs that are not among the former rows, and publish all rows of the day."""
    from atomvision_ml.experiments.micrograph_store import read_image

    with work.alone():
        micrographs = work.scan(EXPERIMENTS_MICROGRAPHS, work.context.partition_key)

        def make() -> Product:
            described = micrographs.collect().to_dicts()
            former = work.reusable()
            known: dict[str, list[Row]] = {}
            for row in [] if former is None else former.to_dicts():
                known.setdefault(row["record_id"], []).append(row)
            rows: list[Row] = []
            picture: Callable[[], bytes] | None = None
            for done, micrograph in enumerate(described):
                if (kept := known.get(micrograph["record_id"])) is None:
                    kept, draw = measure(micrograph, read_image(work.lake.blob(micrograph["blob"])))
                    picture = draw or picture
                rows += kept
                work.progress(done + 1, len(described))
            rows = finish(rows)
            audits = audit_measured(rows, described, number)
            return Product(rows, audits=audits, preview_png=None if picture is None else picture())

        return work.publish(make, parameters=parameters)
