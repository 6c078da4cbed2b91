"""jax and optax, or an error that names the fix."""

from ..optional import require

jax = require("jax", "samestep.jax", "jax")
optax = require("optax", "samestep.jax", "jax")
