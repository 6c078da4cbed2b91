"""Layers of networks, and the functions on arrays that they consist of: batch norm."""
