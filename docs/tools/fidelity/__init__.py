"""The tool that writes `docs/fidelity.md`.

Run it from the root of a checkout:

    python -m docs.tools.fidelity [--output FOLDER]

It puts one tensor through qbench's methods and through the versions of other libraries. qbench's
values come through its plugin interface, as in a trial. All other values come from transcriptions
in `libraries`, which were written from the files that `sources` lists and use no code of qbench.
Every number on the page is computed here.

Each family of methods has a module that computes its section: `dorefa`, `wrpn`, `lsq`, `hwgq`,
`bwn`, `twn`, `pact`, `lq_nets`, `quantization_networks` and `admm`. `every_method` lists all
methods and what they were checked against; departures come from their docstrings. They use `probe`
(the tensor and its measurements), `libraries`, `markdown` and `drawing`. `page` puts the sections
together.

Notation: w is a weight or an activation, q its quantized value, n a number of steps, [·] rounding.
"""
