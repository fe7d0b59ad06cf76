"""Calls that are not real: the simulated telephone network, the service and the model on this machine, put together.

The only room that knows all three. `demo` is the first call a new user makes.
"""
