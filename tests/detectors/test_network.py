"""Whether a server can be reached: known at once where something answers, after some seconds where nothing does."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from detectors.weights import network
from detectors.weights.network import unreachable


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def port() -> Iterator[int]:
    """That of a server which takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def resolved(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Makes every name mean these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(network.socket, "getaddrinfo", lambda *_, **__: found)


def test_a_server_that_takes_the_connection_is_reachable(port: int) -> None:
    assert unreachable(f"http://127.0.0.1:{port}/file") == ""


def test_a_refusal_is_told_at_once(closed: int) -> None:
    assert unreachable(f"http://127.0.0.1:{closed}/file", 600.0) == "127.0.0.1 can't be reached: Connection refused"


def test_a_name_that_nobody_knows_is_told_with_the_resolvers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(network.socket, "getaddrinfo", fail)
    assert unreachable("https://nowhere.example/file") == "nowhere.example can't be reached: Name or service not known"


def test_one_address_of_several_is_enough(monkeypatch: pytest.MonkeyPatch, port: int, closed: int) -> None:
    resolved(monkeypatch, ("127.0.0.1", closed), ("127.0.0.1", port))
    assert unreachable("https://somewhere.example/file") == ""


def test_silence_of_the_resolver_ends_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(network.socket, "getaddrinfo", lambda *_, **__: ended.wait(60) and [])
    assert unreachable("https://slow.example", 0.05) == "slow.example can't be reached: no answer within 0.05 seconds"
    ended.set()


def test_silence_of_the_server_ends_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(socket.socket):
        def connect_ex(self, address: Any) -> int:
            return 0

    resolved(monkeypatch, ("127.0.0.1", 9))
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        while True:  # full, so that it is never ready
            try:
                one.send(bytes(1 << 16))
            except BlockingIOError:
                break
        monkeypatch.setattr(network.socket, "socket", lambda *_: Silent(fileno=socket.dup(one.fileno())))
        assert unreachable("https://silent.example", 0.05).endswith("no answer within 0.05 seconds")


def test_a_proxy_of_the_environment_is_asked_in_the_servers_place(
    monkeypatch: pytest.MonkeyPatch, port: int, closed: int
) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    assert unreachable("https://nowhere.invalid/file") == ""
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{closed}")
    assert unreachable("https://nowhere.invalid/file").startswith("127.0.0.1 can't be reached")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert unreachable(f"https://127.0.0.1:{port}/file") == ""


@pytest.mark.parametrize("url", ["file:///weights.pth", "somewhere", "https://a:b/file"])
def test_an_address_that_is_none_of_a_server_is_left_to_its_reader(url: str) -> None:
    assert unreachable(url) == ""
