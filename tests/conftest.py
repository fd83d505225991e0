"""Settings every test shares: they must be in place before JAX is first used."""

from moerl.cli.train import configure_jax

configure_jax(threads=1)

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
