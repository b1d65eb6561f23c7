"""The command line: one file for each group of commands."""

import os

from embedfit.numerics.machine import cores

# torch and numpy read these when they are loaded, which is later. Their threads would wait for each other by spinning:
# beside other busy processes, or under a quota, a search then takes ten times as long and more.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # the processor's cycles as a power of 2; 4 is the least
if "OMP_NUM_THREADS" not in os.environ:  # in a container numpy would take all of the machine's cores
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(cores()))
