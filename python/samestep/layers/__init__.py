"""Layers of networks, and the functions on arrays that they consist of: batch norm, the linear layer,
functions of one value and softmax with cross-entropy.
"""
