"""`python -m moerl` is the `moerl` command."""

from moerl.cli.main import main

main()
