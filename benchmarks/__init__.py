"""Measurements of speed; a package, or another of this name would be found first."""
