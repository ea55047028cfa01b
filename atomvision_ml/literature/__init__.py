"""The literature: figures of microscopy papers on arXiv, their captions, and what they show."""
