"""HTTP: one listener for machines and people. Whatever it shows is read from SQLite, on threads of its own.

A path is added by putting a `Route` under it into the table that `server` hands to the listener.
"""

from .listener import Listener
from .messages import Request, Response, Route, Routes

__all__ = ["Listener", "Request", "Response", "Route", "Routes"]
