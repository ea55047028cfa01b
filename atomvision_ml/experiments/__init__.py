"""Experimental micrographs: files of microscopes, what they hold, and what is recorded of them."""
