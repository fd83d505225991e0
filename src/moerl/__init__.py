"""moerl: from training to paper figures, for *Mixtures of Experts Unlock Parameter Scaling for Deep RL*."""

__version__ = "0.1.0"
