"""Results in MLflow and, until they are recorded, on disk."""
