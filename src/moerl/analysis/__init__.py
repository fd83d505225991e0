"""What is measured on snapshots of a run (paper Fig 10): dormant neurons, NTK, feature norms."""
