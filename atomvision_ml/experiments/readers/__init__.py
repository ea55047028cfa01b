"""Readers of microscopes' files, one module a format; :mod:`.registry` lists them."""
