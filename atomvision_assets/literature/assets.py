"""Assets of the literature domain: papers of arXiv, their texts, figures and panels, and the materials they name."""

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import external_table, table_asset
from atomvision_assets.failures import PermanentFailure
from atomvision_assets.literature import checks
from atomvision_assets.literature.arxiv import POOL, Arxiv
from atomvision_assets.store import Product, Store, Work
from atomvision_ml.evaluation.gallery.literature import LiteratureGalleryParameters
from atomvision_ml.storage.keys import (
    LITERATURE_FIGURES,
    LITERATURE_GALLERY,
    LITERATURE_HARVEST,
    LITERATURE_IMAGES,
    LITERATURE_LINKS,
    LITERATURE_MENTIONS,
    LITERATURE_PANELS,
    LITERATURE_PAPERS,
    LITERATURE_TEXTS,
)

if TYPE_CHECKING:
    import polars as pl


class LiteratureGalleryConfig(dg.Config, LiteratureGalleryParameters):
    """How many figures are shown."""


papers = external_table(
    LITERATURE_PAPERS,
    kinds={"parquet"},
    deps=[LITERATURE_HARVEST],
    description=(
        "Published by literature/harvest, month by month, where a record changes something; each month is reported "
        "with its data version, so that only what is made of it is made anew."
    ),
)


@table_asset(
    LITERATURE_HARVEST,
    code_version="1",
    kinds={"python", "parquet"},
    checks=checks.HARVEST,
    pool=POOL,
    freshness_policy=dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=54), fail_window=timedelta(hours=102)),
    description="A root with a schedule. It asks for what changed since its watermark and publishes literature/papers.",
)
def harvest(context: dg.AssetExecutionContext, store: Store, arxiv: Arxiv) -> dg.MaterializeResult:
    """Ask OAI-PMH for what changed, publish the months that it changes, then move the watermark."""
    from atomvision_ml.literature.harvest import HarvestParameters, harvest
    from atomvision_ml.literature.papers import update_papers

    work = store.begin(context)
    former = _row_of_set(work, arxiv)

    def make() -> Product:
        scratch = work.scratch()
        watermark = former["watermark"] if former else None
        asked = HarvestParameters(base_url=arxiv.oai_url, set_name=arxiv.set_name, watermark=watermark)
        with arxiv.transport(work.lake) as transport:
            found = harvest(transport, asked, scratch / "pages", work.progress)
        months = update_papers(work.lake, found.records(), scratch / "months", may_publish=work.may_publish)
        work.report_published(LITERATURE_PAPERS)
        known = work.lake.scan(LITERATURE_PAPERS).select("month", "arxiv_id", "licence").collect()
        row = {
            "set_name": arxiv.set_name,
            "base_url": arxiv.oai_url,
            "watermark": found.watermark,
            "n_records": found.n_records,
            "n_papers": known.height,
            "touched_months": months,
        }
        if former is not None and not months and found.watermark == watermark:
            row = dict(former)
        else:
            row["blob"] = _kept_pages(work, found.folder)
        others = [kept for kept in _former_rows(work) if kept["set_name"] != arxiv.set_name]
        audits = checks.audit_papers(known.iter_rows(), former["n_papers"] if former else 0)
        return Product([*others, row], audits=audits, metadata={"watermark": str(found.watermark), "months": months})

    return work.publish(make, parameters={"set_name": arxiv.set_name})


def _row_of_set(work: Work, arxiv: Arxiv) -> Mapping[str, Any] | None:
    """This asset's own row on the same set, or None; papers of two origins do not go into one corpus."""
    from atomvision_ml.literature.addresses import origin_of

    rows = _former_rows(work)
    for row in rows:
        if origin_of(row["base_url"]) != origin_of(arxiv.oai_url):
            raise PermanentFailure(
                f"{work.lake.root} holds the papers of {row['base_url']}; those of {arxiv.oai_url} need a root of "
                "their own: set ATOMVISION_ROOT to another folder"
            )
    return next((row for row in rows if row["set_name"] == arxiv.set_name), None)


def _papers_of(work: Work, month: str) -> "pl.LazyFrame":
    """The papers of a month; none where harvests found none, so that any range of months can be made."""
    if work.lake.exists(LITERATURE_PAPERS, month):
        return work.scan(LITERATURE_PAPERS, month)
    return work.scan(LITERATURE_PAPERS).clear()


def _former_rows(work: Work) -> list[dict[str, Any]]:
    present = work.former()
    return [] if present is None else present.to_dicts()


def _kept_pages(work: Work, pages: Path) -> str:
    """The raw pages as a blob, pinned: they are the only copy of what the records held at that time."""
    import shutil

    copied = work.scratch() / "kept"
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(pages, copied, ignore=shutil.ignore_patterns("state.json", "*.part"))
    blob = work.lake.put_blob(copied)
    work.lake.pin(f"literature-harvest-{blob[:16]}", [blob])
    return blob


@table_asset(
    LITERATURE_TEXTS,
    code_version="1",
    kinds={"python", "parquet"},
    deps=[LITERATURE_PAPERS],
    checks=checks.TEXTS,
    automation_condition=when_inputs_change(),
    pool=POOL,
    description="Each version is fetched once; what an interrupted run has fetched is not fetched again.",
)
def texts(context: dg.AssetExecutionContext, store: Store, arxiv: Arxiv) -> dg.MaterializeResult:
    """Fetch the full texts of the month's candidates that are not here yet."""
    from atomvision_ml.literature.texts import TextFetcher, text_rows

    work = store.begin(context)
    month = _papers_of(work, context.partition_key)

    def make() -> Product:
        with arxiv.transport(work.lake) as transport:
            fetcher = TextFetcher(transport, arxiv.url, work.scratch(), work.lake.put_blob)
            rows = text_rows(month.collect().to_dicts(), _former_rows(work), fetcher.row, work.progress)
        return Product(rows, audits=[checks.audit_acceptance(rows, "texts_are_accepted")])

    return work.publish(make)


@table_asset(
    LITERATURE_FIGURES,
    code_version="2",
    kinds={"python", "parquet"},
    deps=[LITERATURE_PAPERS, LITERATURE_TEXTS],
    checks=checks.FIGURES,
    automation_condition=when_inputs_change(),
    description="Read from the texts that are kept; no server is asked.",
)
def figures(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Find the figures of the month's texts."""
    from atomvision_ml.literature.extraction import figure_rows

    work = store.begin(context)
    of_month = _papers_of(work, context.partition_key)
    kept = work.scan(LITERATURE_TEXTS, context.partition_key)

    def make() -> Product:
        rows = figure_rows(of_month.collect().to_dicts(), kept.collect().to_dicts(), work.lake.blob, work.progress)
        return Product(rows, audits=[checks.audit_acceptance(rows, "texts_are_readable"), checks.audit_links(rows)])

    return work.publish(make)


@table_asset(
    LITERATURE_IMAGES,
    code_version="1",
    kinds={"python", "parquet"},
    deps=[LITERATURE_TEXTS, LITERATURE_FIGURES],
    checks=checks.IMAGES,
    automation_condition=when_inputs_change(),
    pool=POOL,
    description="Decoded within limits by a process of their own.",
)
def images(context: dg.AssetExecutionContext, store: Store, arxiv: Arxiv) -> dg.MaterializeResult:
    """Fetch the images of the month's relevant figures that are not here yet."""
    from atomvision_ml.literature.image_decoder import ImageReader
    from atomvision_ml.literature.image_files import ImageFetcher, image_rows
    from atomvision_ml.literature.texts import stored_text

    work = store.begin(context)
    kept = work.scan(LITERATURE_TEXTS, context.partition_key).select("url", "route", "blob")
    captioned = work.scan(LITERATURE_FIGURES, context.partition_key)

    def make() -> Product:
        blobs = {row["url"]: row["blob"] for row in kept.collect().to_dicts() if row["route"] == "tex"}
        archive = lru_cache(maxsize=1)(lambda url: stored_text(work.lake.blob(blobs[url]), "tex"))
        with arxiv.transport(work.lake) as transport, ImageReader() as reader:
            fetcher = ImageFetcher(transport, arxiv.url, reader, work.scratch(), work.lake.put_blob, archive)
            rows = image_rows(captioned.collect().to_dicts(), _former_rows(work), fetcher.row, work.progress)
        return Product(rows, audits=[checks.audit_acceptance(rows, "images_are_accepted")])

    return work.publish(make)


@table_asset(
    LITERATURE_PANELS,
    code_version="2",
    kinds={"python", "parquet"},
    deps=[LITERATURE_FIGURES, LITERATURE_IMAGES],
    checks=checks.PANELS,
    automation_condition=when_inputs_change(),
    description=(
        "Where the extra `ocr` is installed, lengths on scale bars are read, and letters where the order is in doubt."
    ),
)
def panels(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Divide captions and images among their panels."""
    from atomvision_ml.literature.extraction import panel_rows
    from atomvision_ml.literature.image_decoder import ImageReader
    from atomvision_ml.literature.image_files import stored_pixels
    from atomvision_ml.literature.text_reading import open_text_reader

    work = store.begin(context)
    captioned = work.scan(LITERATURE_FIGURES, context.partition_key)
    pictures = work.scan(LITERATURE_IMAGES, context.partition_key)
    read_text = open_text_reader()

    def make() -> Product:
        with ImageReader() as reader:
            rows = panel_rows(
                captioned.collect().to_dicts(),
                pictures.collect().to_dicts(),
                lambda image: stored_pixels(image, work.lake.blob, reader),
                read_text,
                work.progress,
            )
        return Product(rows, audits=[checks.audit_boxes(rows)])

    return work.publish(make, parameters={"reads_text": read_text is not None})


@table_asset(
    LITERATURE_MENTIONS,
    code_version="2",
    kinds={"python", "parquet"},
    deps=[LITERATURE_FIGURES],
    automation_condition=when_inputs_change(),
    description="Which of them structures/materials has is a view, literature.simulated_materials.",
)
def mentions(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Find the materials that the month's captions name."""
    from atomvision_ml.literature.extraction import mention_rows

    work = store.begin(context)
    captioned = work.scan(LITERATURE_FIGURES, context.partition_key)
    return work.publish(lambda: Product(mention_rows(captioned.collect().to_dicts())))


@table_asset(
    LITERATURE_LINKS,
    code_version="1",
    kinds={"python", "parquet"},
    deps=[LITERATURE_PAPERS, LITERATURE_FIGURES, LITERATURE_PANELS, LITERATURE_MENTIONS],
    checks=checks.LINKS,
    automation_condition=when_inputs_change("each"),
)
def links(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Gather what may be passed on."""
    import polars as pl

    from atomvision_ml.literature.export import links_rows

    work = store.begin(context)
    known, captioned = work.scan(LITERATURE_PAPERS), work.scan(LITERATURE_FIGURES)
    divided, named = work.scan(LITERATURE_PANELS), work.scan(LITERATURE_MENTIONS)

    def make() -> Product:
        rows = list(links_rows(known, captioned, divided, named))
        allowed = captioned.filter(pl.col("is_redistributable")).select("figure_id").collect()["figure_id"]
        return Product(rows, audits=[checks.audit_export(rows, set(allowed))])

    return work.publish(make)


@table_asset(
    LITERATURE_GALLERY,
    code_version="1",
    kinds={"html"},
    deps=[
        LITERATURE_HARVEST,
        LITERATURE_PAPERS,
        LITERATURE_FIGURES,
        LITERATURE_IMAGES,
        LITERATURE_PANELS,
        LITERATURE_MENTIONS,
    ],
    automation_condition=when_inputs_change("each"),
    description="Open index.html in the blob; `make demo` prints where it is.",
)
def gallery(context: dg.AssetExecutionContext, store: Store, config: LiteratureGalleryConfig) -> dg.MaterializeResult:
    """Show the mined figures to people."""
    from atomvision_ml.evaluation.gallery.literature import build_literature_gallery

    work = store.begin(context)
    asked = work.scan(LITERATURE_HARVEST).select("base_url")
    known, captioned, pictured = (work.scan(key) for key in (LITERATURE_PAPERS, LITERATURE_FIGURES, LITERATURE_IMAGES))
    divided, named = work.scan(LITERATURE_PANELS), work.scan(LITERATURE_MENTIONS)
    parameters = LiteratureGalleryParameters(**config.model_dump())

    def make() -> Product:
        folder = work.scratch() / "gallery"
        rows = build_literature_gallery(
            folder,
            papers=known,
            figures=captioned,
            images=pictured,
            panels=divided,
            mentions=named,
            open_blob=work.lake.blob,
            asked=asked.collect()["base_url"].to_list(),
            parameters=parameters,
        )
        blob = work.lake.put_blob(folder)
        page = {"page": work.lake.blob(blob) / "index.html"}
        return Product([{**row, "blob": blob} for row in rows], metadata=page)

    return work.publish(make, parameters=parameters.model_dump())
