"""The measuring lab: our server beside its peers, on one machine, in the same hour.

`python -m everywire.lab` builds the C programs of the folder `lab/`, runs bare C, Everywire and
Nchan in turn, and writes what it saw. It judges ratios, and never the machine: what the figures
mean is said in `docs/benchmarks.md`. It needs Linux, two cores and a clone of the project, talks
to loopback only, and ends no process but those it started.
"""
