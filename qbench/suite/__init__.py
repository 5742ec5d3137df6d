"""Read a suite's YAML file, check it and expand it into trials."""
