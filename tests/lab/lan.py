"""A LAN in the tests' own network namespace, whose hosts can lose their power.

An interface with the PBX's address and those of the other hosts. One whose address is taken away is
a neighbour that answers nobody: what is sent to it vanishes, and so does what it sends.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator

PBX = "192.0.2.10"
HOSTS = ("192.0.2.11", "192.0.2.12")

# From linux/rtnetlink.h, linux/if_link.h and linux/sockios.h.
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_REQUEST_ACK_CREATE_EXCL = 0x1 | 0x4 | 0x400 | 0x200
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 18, 1
_IFLA_INFO_DATA, _VETH_INFO_PEER = 2, 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_SIOCSIFADDR, _SIOCSIFNETMASK = 0x8916, 0x891C
_NAME, _FAR_END = "lan0", "lan1"
_NO_LINK = struct.pack("BxHiII", 0, 0, 0, 0, 0)  # an ifinfomsg that says nothing


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("HH", size, kind) + value + b"\0" * (-size % 4)


def _netlink(message: int, flags: int, body: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.bind((0, 0))
        kernel.send(struct.pack("IHHII", 16 + len(body), message, flags, 1, 0) + body)
        error = struct.unpack_from("i", kernel.recv(4096), 16)[0]
    assert error == 0, f"no veth pair for the tests of a loss of power: error {-error}"


def _ioctl(request: int, name: str, value: bytes = b"") -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        packed = struct.pack("16s24s", name.encode(), value)
        return fcntl.ioctl(any_socket, request, packed)[16:]


def _up(name: str) -> None:
    flags = struct.unpack_from("h", _ioctl(_SIOCGIFFLAGS, name))[0]
    _ioctl(_SIOCSIFFLAGS, name, struct.pack("h", flags | _IFF_UP))


def _address(name: str, address: str, mask: str) -> None:
    for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, mask)):
        _ioctl(request, name, struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value)))


def power_on(host: str) -> None:
    """The host has its address."""
    _address(f"{_NAME}:{HOSTS.index(host)}", host, "255.255.255.255")


def power_off(host: str) -> None:
    """From now on, packets to the host and from it vanish."""
    _ioctl(_SIOCSIFFLAGS, f"{_NAME}:{HOSTS.index(host)}", struct.pack("h", 0))


@contextlib.contextmanager
def lan() -> Iterator[None]:
    """The LAN with all its hosts; its end takes it away."""
    far_end = _NO_LINK + _attribute(_IFLA_IFNAME, _FAR_END.encode() + b"\0")
    info = _attribute(_IFLA_INFO_KIND, b"veth") + _attribute(
        _IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, far_end)
    )
    name = _attribute(_IFLA_IFNAME, _NAME.encode() + b"\0")
    body = _NO_LINK + name + _attribute(_IFLA_LINKINFO, info)
    _netlink(_RTM_NEWLINK, _REQUEST_ACK_CREATE_EXCL, body)
    try:
        _address(_NAME, PBX, "255.255.255.0")
        for host in HOSTS:
            power_on(host)
        _up(_NAME)
        _up(_FAR_END)
        yield
    finally:
        _netlink(_RTM_DELLINK, 0x1 | 0x4, _NO_LINK + name)
