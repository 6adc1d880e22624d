"""Object stores that speak HTTP with signed requests: what S3 and Azure have in common.

Their own libraries make the signature (in the URL, so it holds for every range of the object); reading, resuming,
proxies, source address and TLS are those of `http`. An object is recognised by its ETag, checked by the server with
If-Match: a changed object is a 412, never a mixture.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING, ClassVar

from pillar.transports.http import HttpTransport, refusal

if TYPE_CHECKING:
    import requests

EXPLANATION_BYTES = 8 * 1024


class SignedTransport(HttpTransport):
    """HTTP with If-Match, and refusals in the store's own words."""

    condition: ClassVar[str] = "If-Match"

    def _refusal(self, response: requests.Response) -> str:
        words = explanation(response)
        return f"{refusal(response)}{': ' + words if words else ''}"


def climbing(name: str) -> str:
    """Why an object of this name cannot be asked for; empty when it can.

    Stores allow `.` and `..` between slashes, but clients and proxies on the way resolve them, and the store is then
    asked for another object than the one that was signed.
    """
    for segment in name.split("/"):
        if segment in (".", ".."):
            return f"the name {name!r} has a {segment!r} between its slashes, which is resolved on the way; rename it"
    return ""


def explanation(response: requests.Response) -> str:
    """`Code: Message` of the XML in an error's body; the code alone from its header; empty when neither is there."""
    from urllib3.exceptions import HTTPError

    code, message = response.headers.get("x-ms-error-code", ""), ""
    try:
        body = response.raw.read(EXPLANATION_BYTES, decode_content=False)
        # No entities are expanded that the text does not define itself, and 8 KiB cannot define many.
        tree = ElementTree.fromstring(body) if b"<!" not in body else ElementTree.Element("Error")
        code = (tree.findtext("Code") or code).strip()
        message = (tree.findtext("Message") or "").strip()
    except (HTTPError, OSError, ElementTree.ParseError):
        message = ""  # the status code has to do
    return ": ".join(" ".join(part.split()) for part in (code, message) if part)
