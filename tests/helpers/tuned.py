"""A tuned suite whose trials take a tenth of a second."""

from __future__ import annotations

SUITE = """\
name: tuned
dataset: digits
models: [convnet_tiny]
bits: [2/2]
methods: [fp32, dorefa]
seeds: [0, 1]
recipe: {name: tuned, epochs: 1, steps: 2, batch_size: 32}
full_precision: {epochs: 1, steps: 2}
tuning: {studies: 2, trials: 3, seeds: 2, validation: 50}
"""
