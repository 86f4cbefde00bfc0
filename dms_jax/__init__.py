"""Differentiable model scaling in JAX: fit the width and depth of a network to a budget."""
