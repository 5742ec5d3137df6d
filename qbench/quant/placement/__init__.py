"""Where activation quantizers sit: find call sites, plan places, insert quantizers in place.

`sites` runs a model once and records its calls, `plan` decides from them where quantizers sit, and
`insert` puts the quantizers there. The model stays the module that it was.
"""
