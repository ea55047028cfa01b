"""The workers of a parallel run share the cores: one thread each, said before any library reads it."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", ATOMVISION_THREADS="1")
