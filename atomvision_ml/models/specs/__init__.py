"""One entry for each registered model, by family. Belongs here: entries, nothing that imports a model's own module."""
