"""Carriers' dialects, pure: their messages, their TwiML, their signatures, the layout of their REST requests.

Nothing here opens a connection or has an opinion about a call.
"""
