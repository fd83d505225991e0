"""Training loops, their checkpoints, and the publication of finished milestones."""
