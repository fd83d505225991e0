"""Agents: losses and updates as pure functions on frozen state."""
