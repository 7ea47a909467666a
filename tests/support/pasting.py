"""Runs the curl lines that a program printed, as a user who pastes them would; without curl, where there is none."""

from __future__ import annotations

import http.client
import json
import shlex
import subprocess
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def paste(line: str) -> Answer:
    """The answer to a printed `curl -i URL [-H 'Name: value'] ...`, asked with http.client: the words are what a shell
    would make of them, nothing is added or left out."""
    words = iter(shlex.split(line))
    assert next(words) == "curl"
    url, headers = "", {}
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word != "-i":
            assert not word.startswith("-"), f"{word} is not understood here"
            url = word
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


def paste_into_bash(lines: str) -> list[Answer]:
    """The answers to lines whose every `curl -i` a real bash and a real curl run."""
    output = subprocess.run(["bash", "-c", lines], capture_output=True, check=True, timeout=60).stdout
    answers = []
    while output.startswith(b"HTTP/1.1 "):
        head, _, rest = output.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        length = int(headers.get("content-length", "0"))
        answers.append(Answer(int(first.split()[1]), headers, rest[:length]))
        output = rest[length:].lstrip(b"\n")
    return answers
