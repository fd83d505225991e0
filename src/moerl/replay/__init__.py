"""Replay memory with the paper-era (legacy Dopamine) semantics."""
