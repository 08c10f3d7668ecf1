"""The passes over rows that all rules are made of, each as fast as the memory they are read from.

A rule reads the rows once or twice: to rank every coordinate (``window``, ``nearest``), to compare
all pairs of rows (``distances``, ``gram``), to measure them (``squares``, ``finite``), to add them
up (``combine``, ``votes``). Whatever else it does is arithmetic on as many numbers as there are
pairs of rows. Nothing here changes its input. The number of threads is torch's
(``torch.set_num_threads``).
"""

from dai_lab.aggregators.kernels.passes import (
    beside,
    combine,
    distances,
    finite,
    gram,
    nearest,
    outside,
    squares,
    votes,
    window,
)

__all__ = [
    "beside",
    "combine",
    "distances",
    "finite",
    "gram",
    "nearest",
    "outside",
    "squares",
    "votes",
    "window",
]
