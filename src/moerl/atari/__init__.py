"""Atari environments: lanes of ale-py's vector environment, episode seeding, and the action log."""
