"""A walk through PyTorch's tools, with samestep.torch's layers and optimizers in the place of torch's.

``PYTHONPATH=tests/torch python -m walk`` prints docs/guide/torch-tools.md. A case is a short function that
uses one tool; ``judge`` runs it with either library and compares. ``names`` lists what torch offers, so that
a tool that no case uses shows.
"""
