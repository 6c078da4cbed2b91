"""Optimizers: what they are called, what they hold, and what a step does besides the rule."""
