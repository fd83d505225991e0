"""The `moerl` command: every rule of the pipeline is one of its sub-commands."""
