"""A suite's YAML as a checked `Suite` and its trials."""
