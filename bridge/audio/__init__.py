"""Arithmetic on sound, pure: formats, G.711, rates, the live path of a call, its timeline, speech detection, files.

Nothing here waits, and time is counted in audio. `path` is what every frame of a call goes through; `resample` and
`taps` are the filter behind it.
"""
