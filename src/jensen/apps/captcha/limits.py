"""Who asks, and how often they may; addresses are kept only as keyed digests."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.settings import Settings
from jensen.apps.captcha.store import Store

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
UNKNOWN = IPv6Address("::")
MOST = 100_000  # addresses whose requests are counted in memory


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address:
    """The address of a visitor: the last one that a trusted proxy did not add itself.

    Args:
        peer: address of the connection.
        forwarded: values of X-Forwarded-For, in their order.
        trusted: networks of proxies.

    >>> str(client_address("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.0.0.2"], [ip_network("10.0.0.0/8")]))
    '198.51.100.7'
    >>> str(client_address("203.0.113.9", ["198.51.100.7"], []))
    '203.0.113.9'
    """
    address = _address(peer) or UNKNOWN
    for name in reversed(",".join(forwarded).split(",")):
        if not any(address in network for network in trusted):
            return address
        nearer = _address(name.strip())
        if nearer is None:  # no address, or one with a port: the proxy that wrote it answers for it
            return address
        address = nearer
    return address


def _address(text: str) -> Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def network(address: Address) -> Network:
    """What one customer of a provider has: an IPv4 address, or a /64 of IPv6.

    >>> network(ip_address("2001:db8::1:2:3")), network(ip_address("192.0.2.1"))
    (IPv6Network('2001:db8::/64'), IPv4Network('192.0.2.1/32'))
    """
    return ip_network(f"{address}/{32 if address.version == 4 else 64}", strict=False)


class Limits:
    """Rates of requests: in the store, for each network and for all of them together; or in this process's memory."""

    def __init__(self, settings: Settings, store: Store, keys: Keys):
        self._store, self._keys = store, keys
        self._rates = {
            what: (settings.rate(f"{what}_rate"), settings.rate(f"all_{what}_rate")) for what in ("issue", "answer")
        }
        self._cheap = {what: settings.rate(f"{what}_rate") for what in ("failed", "request")}
        self._due: dict[str, float] = {}  # when the requests so far are paid for, the latest last
        self._lock = threading.Lock()

    def wait(self, what: str, address: Address, now: int) -> float:
        """Count a request ("issue" or "answer"); 0, or the seconds after which it may be repeated.

        A request that its own network's rate refuses takes nothing from the rate of all.
        """
        own, everyone = self._rates[what]
        waiting = self._store.admit(self._name(what, address), now, own)
        return waiting or self._store.admit(f"{what}:all", now, everyone)

    def wait_here(self, what: str, address: Address, now: int) -> float:
        """The same for "failed" and "request", in the memory of this process, so that no flood reaches the store."""
        rate, name = self._cheap[what], self._name(what, address)
        with self._lock:
            due = max(self._due.pop(name, 0.0), now)
            wait = rate.wait(due, now) if due + rate.step > now + rate.span else 0.0
            self._due[name] = due if wait else due + rate.step
            if len(self._due) > MOST:
                del self._due[next(iter(self._due))]
        return wait

    def _name(self, what: str, address: Address) -> str:
        digest = self._keys.digest(self._keys.current, "address", str(network(address)))
        return f"{what}:{digest.hex()[:32]}"
