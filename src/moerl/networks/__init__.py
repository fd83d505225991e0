"""Flax networks: encoder, penultimate module (dense or mixture of experts), head (paper Fig 2)."""
