"""A suite from end to end: what is done, what is to do, and running it."""
