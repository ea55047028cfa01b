"""An offline double of arXiv: its interfaces on loopback over a corpus of authored papers, with faults on demand."""
