"""Tells the test where gunicorn listens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def when_ready(server: Any) -> None:
    port = server.LISTENERS[0].sock.getsockname()[1]
    draft = Path(os.environ["OSTIARY_TEST_PORT_FILE"] + ".draft")
    draft.write_text(str(port))
    draft.rename(os.environ["OSTIARY_TEST_PORT_FILE"])
