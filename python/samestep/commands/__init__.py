"""The console script ``samestep``. The library imports nothing from this folder."""
