"""HTML pages with pictures for people. Belongs here: choosing what to show, drawing it, writing the pages."""

from atomvision_ml.evaluation.gallery.build import GalleryParameters, build_gallery
from atomvision_ml.evaluation.gallery.pictures import preview_grid

__all__ = ["GalleryParameters", "build_gallery", "preview_grid"]
