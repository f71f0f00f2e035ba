"""Model snapshots in Hugging Face hub caches."""
