"""Fixed datasets for offline agents: the published layout, and moerl's own action logs."""
