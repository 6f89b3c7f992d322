"""No test here reaches the network beyond this machine, or the cache of the user."""

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the user's cache, and connections to this machine only."""
    folder = tmp_path_factory.mktemp("cache")
    for module in ("catalog", "fetch"):
        monkeypatch.setattr(f"widescape.data.{module}.cache_folder", lambda: folder)
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for name in (variable, variable.lower()):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def only_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not ipaddress.ip_address(address[0]).is_loopback:
            raise AssertionError(f"a test connects to {address}")
        connect(self, address)

    def no_names(host: Any, *args: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", b"127.0.0.1"):
            raise AssertionError(f"a test looks up {host}")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    return folder
