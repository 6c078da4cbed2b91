"""Functions and layers of networks."""
