"""`/docs`: the operations to read and to try, by Swagger UI, whose files an installed package has: no foreign host.

The package is looked at, not imported: of it only the files of Swagger UI are used. Scripts and styles come from this server
alone, and nothing stands in the page itself, so the policy needs no exception but for the images in Swagger UI's own style.
Without a script the page still has every problem code (the `type` of a problem leads here) and the way to the static page."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ostiary.control_plane.http import documentation
from ostiary.control_plane.http.operations import BASE

_PACKAGE = "flask_swagger_ui"
ASSETS = "/docs/assets/"
REFERENCE = "/docs/reference"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

# Credentials that somebody types in stay in the page: `persistAuthorization` would write them to the browser's storage.
_START = f"""window.addEventListener("load", function () {{
  window.SwaggerUIBundle({{
    url: "{BASE}/openapi.json",
    dom_id: "#operations",
    deepLinking: true,
    persistAuthorization: false,
    validatorUrl: null,
    onComplete: function () {{
      // What was above the problem has grown meanwhile.
      var wanted = /^#[a-z_]+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
      if (wanted) wanted.scrollIntoView();
    }},
  }});
}});
"""


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    content_type: str


class AssetsMissing(Exception):
    """The package with the files of Swagger UI is not installed as it must be."""


def assets() -> Mapping[str, Asset]:
    """Path to file. Raises AssetsMissing."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise AssetsMissing(f"the package {_PACKAGE} is not installed; reinstall Ostiary")
    directory = Path(found.origin).parent / "dist"
    try:
        return {
            f"{ASSETS}swagger-ui-bundle.js": Asset(
                (directory / "swagger-ui-bundle.js").read_bytes(), "text/javascript"
            ),
            f"{ASSETS}swagger-ui.css": Asset((directory / "swagger-ui.css").read_bytes(), "text/css"),
            f"{ASSETS}start.js": Asset(_START.encode(), "text/javascript"),
            f"{ASSETS}page.css": Asset(documentation.STYLE.encode(), "text/css"),
        }
    except OSError as error:
        raise AssetsMissing(f"{directory} has not the files of Swagger UI; reinstall Ostiary") from error


PATHS = frozenset(ASSETS + name for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js", "page.css"))


def page() -> str:
    """The page, as HTML."""
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Ostiary control plane</title>
<link rel="stylesheet" href="{ASSETS}swagger-ui.css"><link rel="stylesheet" href="{ASSETS}page.css">
<script src="{ASSETS}swagger-ui-bundle.js" defer></script><script src="{ASSETS}start.js" defer></script></head>
<body>
<p>The same on one page, without a script: <a href="{REFERENCE}"><code>{REFERENCE}</code></a>. For programs:
<a href="{BASE}/openapi.json"><code>{BASE}/openapi.json</code></a>.</p>
<noscript><p>To try operations here needs JavaScript.</p></noscript>
<div id="operations"></div>
{documentation.problems()}
</body></html>
"""
