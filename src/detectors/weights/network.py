"""Whether a server can be reached: asked before libraries that would try again for a minute, or wait for ever."""

import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from selectors import EVENT_WRITE, DefaultSelector
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

SECONDS = 8.0
"""Until a server counts as unreachable: more than the 5 after which a resolver asks its second name server."""
_PORTS = {"http": 80, "https": 443, "socks": 1080, "socks4": 1080, "socks5": 1080, "socks5h": 1080}


def unreachable(url: str, seconds: float = SECONDS) -> str:
    """Says why no connection can be opened to the server of an address, or to the proxy on the way to it; empty where
    one can be. An error is known at once, silence after some seconds.
    """
    host, port = _first_hop(url)
    if not host or port is None:
        return ""
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(_failure(host, port, seconds)), daemon=True)
    asking.start()  # on a thread of its own, since looking up a name can't be given a limit
    asking.join(seconds)
    reason = found[0] if found else f"no answer within {seconds:g} seconds"
    return f"{host} can't be reached: {reason}" if reason else ""


def _first_hop(url: str) -> tuple[str, int | None]:
    """Host and port of a server, or of the proxy that the environment names for it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(host):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        return parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:  # a port that is no number
        return "", None


def _failure(host: str, port: int, seconds: float) -> str:
    """Tries every address of a host at once; the last one's error, or an empty text with the first connection."""
    end = time.monotonic() + seconds
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return error.strerror or str(error)
    reason = f"no answer within {seconds:g} seconds"
    opened: list[socket.socket] = []
    with DefaultSelector() as selector:
        try:
            for family, kind, protocol, _, address in addresses:
                try:
                    one = socket.socket(family, kind, protocol)
                    opened.append(one)
                    one.setblocking(False)
                    one.connect_ex(address)
                    selector.register(one, EVENT_WRITE)
                except OSError as error:  # a family that the system lacks
                    reason = error.strerror or str(error)
            while selector.get_map() and (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    one = cast(socket.socket, key.fileobj)
                    if not (code := one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                        return ""
                    reason = os.strerror(code)
                    selector.unregister(one)
        finally:
            for one in opened:
                one.close()
    return reason


def hub() -> Any:
    """The settings of the Hub's client, `huggingface_hub`."""
    return import_module("huggingface_hub.constants")


@contextmanager
def hub_offline() -> Generator[None]:
    """The Hub's client in its offline mode: it takes files that it has kept, and asks no server, of which it would ask
    one that is silent for a minute."""
    settings = hub()
    before, settings.HF_HUB_OFFLINE = settings.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before
