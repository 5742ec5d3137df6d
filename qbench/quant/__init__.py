"""A method's quantizers on a model, and the audit of what they return."""
