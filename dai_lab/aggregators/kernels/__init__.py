"""The passes over rows that all rules are made of, each as fast as the memory they are read from.

A rule reads the rows once or twice: to rank every coordinate (``window``, ``nearest``), to take
their inner products (``gram``), and to add them up (``combine``). Whatever else it does is
arithmetic on as many numbers as there are pairs of rows. Nothing here changes its input.
"""

from dai_lab.aggregators.kernels.passes import combine, gram, nearest, votes, window

__all__ = ["combine", "gram", "nearest", "votes", "window"]
