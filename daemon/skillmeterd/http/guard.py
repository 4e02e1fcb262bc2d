"""Guard: who is let in. Looks at a request's headers only; opens nothing.

On loopback the danger is a web page in the user's own browser: it can make requests, and with a domain name that it
points at 127.0.0.1 it could read the answers. So the Host has to be one of ours, and requests that a browser makes on
behalf of another site are refused. Off loopback names mean nothing, and the token does the work; a page cannot know it.
"""

import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from .messages import Response

LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_HOST: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*?)\.?)(?::[0-9]*)?")
"""An IPv6 address in brackets, or a name, perhaps with the root's dot; perhaps a port."""


class Guard:
    """Checks for a listener on an address."""

    def __init__(self, address: str, configured_host: str, token: str | None) -> None:
        """`address` is the one that is bound; `configured_host` is what the setting says."""
        self._token = token
        self._is_local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        self._hosts = LOOPBACK | {address, configured_host.lower()}

    def refusal(self, method: str, headers: Mapping[str, str], *, is_open: bool) -> Response | None:
        """Why this request is not answered, or None."""
        if method not in ("GET", "HEAD"):
            return Response.problem(405, "only GET and HEAD are served", allow="GET, HEAD")
        if self._is_local and host_name(headers.get("host", "")) not in self._hosts:
            return Response.problem(421, f"the Host is not one of {', '.join(sorted(self._hosts))}")
        if _is_cross_origin(headers):
            return Response.problem(403, "requests from pages of other sites are refused")
        if self._is_local or is_open:
            return None
        return self._check_token(headers)

    def _check_token(self, headers: Mapping[str, str]) -> Response | None:
        if self._token is None:
            return Response.problem(
                403, "off loopback this needs a token, and none is set: ANALYTICS_HTTP_TOKEN, on the daemon's side"
            )
        if not is_bearer(headers.get("authorization", ""), self._token):
            return Response.problem(401, "needs the bearer token of ANALYTICS_HTTP_TOKEN", www_authenticate="Bearer")
        return None


def is_bearer(authorization: str, token: str) -> bool:
    """Whether an Authorization header holds the token; takes the same time whatever it holds."""
    scheme, _, given = authorization.partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return same and scheme.lower() == "bearer"


def host_name(host: str) -> str:
    """The name in a Host header, without its port; empty if the header is not made like one."""
    parts = _HOST.fullmatch(host.strip().lower())
    return "" if parts is None else parts[1] or parts[2] or ""


def _is_cross_origin(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that another site's page made this request. Following a link to us is no such request."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        return True
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
    return site not in ("none", "same-origin") and mode != "navigate"
