"""Which ports a demo takes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ostiary.demo.configuration import Ports
from ostiary.demo.ports import PortTaken, RequestedPorts, choose_ports
from ostiary.demo.valkey import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_ports_that_were_asked_for_are_taken() -> None:
    gateway, control_plane, admin = free_port(), free_port(), free_port()
    requested = RequestedPorts(gateway=gateway, control_plane=control_plane, admin=admin)
    assert choose_ports(requested) == (Ports(gateway=gateway, control_plane=control_plane, admin=admin), ())


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(taken: int) -> None:
    """Listening elsewhere than asked, the demo's user would talk to whatever has that port."""
    with pytest.raises(PortTaken, match=f"--port {taken}: it is in use; choose another"):
        choose_ports(RequestedPorts(gateway=taken, control_plane=free_port(), admin=free_port()))


def test_a_default_port_that_is_taken_is_replaced_and_named(taken: int) -> None:
    ports, notes = choose_ports(
        RequestedPorts(control_plane=free_port(), admin=free_port()),
        defaults=Ports(gateway=taken, control_plane=1, admin=2),
    )
    assert ports.gateway != taken
    assert notes == (f"port {taken}: it is in use; using {ports.gateway} (--port chooses another)",)


def test_a_default_that_another_was_asked_to_take_is_replaced(taken: int) -> None:
    """`--port 8081` alone would be refused for a port that nobody asked for."""
    gateway, admin = free_port(), free_port()
    requested = RequestedPorts(gateway=gateway, admin=admin)
    ports, notes = choose_ports(requested, defaults=Ports(gateway=taken, control_plane=gateway, admin=admin))
    assert len({ports.gateway, ports.control_plane, ports.admin}) == 3
    assert notes == (
        f"port {gateway}: it is another of the three; using {ports.control_plane} (--control-port chooses another)",
    )


def test_a_port_that_the_kernel_gives_twice_is_taken_once(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives one again when nobody has used it yet, once in some ten thousand times: the demo refused to start."""
    given = iter([5001, 5001, 5002, 5001, 5002, 5003])
    monkeypatch.setattr("ostiary.demo.ports.free_port", lambda: next(given))
    ports, _ = choose_ports(RequestedPorts(), defaults=Ports(gateway=taken, control_plane=taken, admin=taken))
    assert ports == Ports(gateway=5001, control_plane=5002, admin=5003)
    monkeypatch.setattr("ostiary.demo.ports.free_port", lambda: 5001)
    with pytest.raises(PortTaken, match="no port is free"):
        choose_ports(RequestedPorts(), defaults=Ports(gateway=taken, control_plane=taken, admin=taken))


def test_one_port_for_two_things_is_an_error() -> None:
    port = free_port()
    with pytest.raises(PortTaken, match="must differ"):
        choose_ports(RequestedPorts(gateway=port, control_plane=port, admin=free_port()))
