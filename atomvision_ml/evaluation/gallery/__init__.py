"""evaluation.gallery."""
