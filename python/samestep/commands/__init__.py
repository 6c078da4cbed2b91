"""The command ``samestep``. The library imports nothing from here."""
