"""URLs of Redis mean to us what they mean to redis-py, whose function costs each worker 8 MB to import."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection, parse_url

from ostiary.gateway.limits.redis_url import read_redis_url

URLS = [
    "redis://",
    "redis://localhost",
    "redis://127.0.0.1:6380/3",
    "redis://[::1]:6380",
    "redis://:p%40ss%2Fword@cache.example:6380/0",
    "redis://user:p%2520ss@cache.example/",
    "redis://user@cache.example/12?db=7",
    "redis://cache.example/not-a-number",
    "redis://CACHE.example:0",
    "rediss://user:password@cache.example?ssl_ca_certs=%2Fetc%2Fca.pem&ssl_check_hostname=no&ssl_cert_reqs=none",
    "rediss://cache.example:6390/1?ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_server_name=other.example",
    "unix:///run/redis.sock",
    "unix://user:password@/run/redis%20one.sock?db=5",
    "unix://:pass@/run/redis.sock",
]


def as_theirs(url: str) -> dict[str, object]:
    """What redis-py makes of a URL, in our words."""
    said = dict(parse_url(url))
    return {
        "host": said.get("host", "localhost"),
        "port": said.get("port", 6379),
        "path": said.get("path"),
        "username": said.get("username"),
        "password": said.get("password"),
        "database": said.get("db", 0),
        "tls": said.get("connection_class") is SSLConnection,
    }


def ours(url: str) -> dict[str, object]:
    said = read_redis_url(url)._asdict()
    del said["options"]
    return said


@pytest.mark.parametrize("url", URLS)
def test_a_url_means_what_it_means_to_redis_py(url: str) -> None:
    """An operator moves a URL from one program to the other, and must get to the same database as the same user."""
    assert ours(url) == as_theirs(url)


@given(
    scheme=st.sampled_from(("redis", "rediss")),
    username=st.text(max_size=8),
    password=st.text(max_size=8),
    port=st.none() | st.integers(0, 65535),
    path=st.text(max_size=4) | st.integers(0, 99).map(str),
)
def test_whatever_is_escaped_in_a_url(scheme: str, username: str, password: str, port: int | None, path: str) -> None:
    """Passwords are made of anything."""
    user, secret, where = (quote(part, safe="", errors="replace") for part in (username, password, path))
    url = f"{scheme}://{user}:{secret}@cache.example{'' if port is None else f':{port}'}/{where}"
    assert ours(url) == as_theirs(url)


def test_the_options_of_tls_are_kept() -> None:
    """Without them a server with a certificate of its own could not be reached."""
    options = read_redis_url("rediss://h?ssl_ca_certs=%2Fca.pem&ssl_check_hostname=False").options
    assert options == {"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": "False"}


@pytest.mark.parametrize(
    "url", ["http://:hunter2@cache", "cache:6379", "redis://:hunter2@cache:port", "redis://h?db=hunter2"]
)
def test_what_is_none_is_refused_without_repeating_it(url: str) -> None:
    """A wrong URL may have the right password in it."""
    with pytest.raises(ValueError) as refused:
        read_redis_url(url)
    assert "hunter2" not in str(refused.value)
