"""Loops in C for tensors on the CPU: how they are compiled, and how they are called."""
