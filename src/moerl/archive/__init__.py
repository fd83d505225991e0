"""Results as one file to share: what it holds, writing it, verifying and restoring it."""
