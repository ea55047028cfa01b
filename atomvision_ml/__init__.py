"""AtomVision: structures, images, models and numbers of atomic-resolution microscopy. Knows no Dagster."""
