"""What is run: specs, configuration files, the expansion of figures into runs, and paths. Imports no JAX."""
