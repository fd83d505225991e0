"""Human-normalised scores, interquartile means and intervals, and the tables behind figures."""
