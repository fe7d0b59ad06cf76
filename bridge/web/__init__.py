"""The HTTP face: webhooks, the media socket, probes and metrics, and the listener that lets no client be slow.

`app.make_app` is the aiohttp application, `listen.Listener` puts it on a port.
"""
