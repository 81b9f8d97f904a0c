"""What a Service asks for: its spec and annotations as a `Wish`, or why they make no sense."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from metallb_common.kube.views import PREFIXES, Service
from metallb_common.net.ranges import Address, Version
from metallb_controller.allocator import Wish, quoted
from metallb_controller.pools import Client
from metallb_controller.sharing import version_of

POOL = "address-pool"
SHARE = "allow-shared-ip"
ADDRESSES = "loadBalancerIPs"
#: What we write: the pool (or pools, comma-separated) that the address came from.
FROM_POOL = "metallb.io/ip-allocated-from-pool"


@dataclass(frozen=True, slots=True)
class Rules:
    """Which Services are ours (contract section 9). Without a class: those without one."""

    lb_class: str = ""
    also_classless: bool = False

    def serve(self, service: Service) -> bool:
        if service.load_balancer_class is None:
            return not self.lb_class or self.also_classless
        return bool(self.lb_class) and service.load_balancer_class == self.lb_class


class InvalidWish(Exception):
    """The Service contradicts itself. `reason` is the event's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def given(service: Service, name: str) -> dict[str, str]:
    """The value under each prefix that has one."""
    return {p: service.annotations[p + name] for p in PREFIXES if service.annotations.get(p + name)}


def annotation(service: Service, name: str) -> str:
    """The value under either prefix; empty when there is none. Raises InvalidWish when they differ."""
    found = given(service, name)
    values = set(found.values())
    if len(values) > 1:
        both = " and ".join(f'{p}{name} "{v}"' for p, v in found.items())
        raise InvalidWish("LoadBalancerFailed", f"annotations with the same meaning differ: {both}")
    return values.pop() if values else ""


@functools.lru_cache(1024)  # one status is asked for its addresses many times between two changes
def parse_address(text: str) -> Address | None:
    """An address without a zone, or None."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def one_per_family(addresses: tuple[Address, ...]) -> str | None:
    """Why these cannot be one Service's addresses; None when they can."""
    if len(addresses) > 2:
        return f"More than two addresses [{' '.join(map(str, addresses))}]"
    if len(addresses) == 2 and addresses[0].version == addresses[1].version:
        return f'"{addresses[0]}" "{addresses[1]}" has the same family'
    return None


def has_cluster_ip(service: Service) -> bool:
    return any(ip and ip != "None" for ip in service.cluster_ips)


def families(service: Service) -> tuple[Version, ...]:
    """The families of the Service, primary first. Raises InvalidWish."""
    found = []
    problem: str | None = None
    for text in service.cluster_ips:
        address = parse_address(text)
        if address is None:
            problem = f'invalid address "{text}"'
            break
        found.append(address)
    problem = problem or one_per_family(tuple(found))
    if problem:
        message = f"Failed to retrieve ClusterIPs IPFamily for {quoted(service.cluster_ips)}: {problem}"
        raise InvalidWish("noclusterIPsIPFamily", message)
    return tuple(version_of(a) for a in found)


def requested(service: Service) -> tuple[Address, ...]:
    """The addresses asked for. Raises InvalidWish."""
    listed = annotation(service, ADDRESSES)
    name = next((p + ADDRESSES for p in PREFIXES if service.annotations.get(p + ADDRESSES)), "")
    problem: str | None = None
    out: tuple[Address, ...] = ()
    if listed and service.load_balancer_ip:
        problem = f"service can not have both {name} and svc.Spec.LoadBalancerIP"
    elif service.load_balancer_ip:
        address = parse_address(service.load_balancer_ip)
        out = (address,) if address else ()
        problem = None if address else f'invalid spec.loadBalancerIP "{service.load_balancer_ip}"'
    elif listed:
        parsed = [parse_address(part.strip()) for part in listed.split(",")]
        out = tuple(a for a in parsed if a is not None)
        problem = f'invalid {name}: "{listed}"' if None in parsed else one_per_family(out)
    if problem:
        raise InvalidWish("LoadBalancerFailed", f"invalid requested loadbalancer IPs: {problem}")
    return out


def backend_key(service: Service) -> str:
    """Who gets the traffic: with externalTrafficPolicy Local only Services with the same pods may share."""
    if service.external_traffic_policy != "Local":
        return ""
    return ",".join(f"{k}={v}" for k, v in service.selector) or "(no selector)"


def wish(service: Service, namespace_labels: Mapping[str, str] | None) -> Wish:
    """Raises InvalidWish. `namespace_labels` None: see `Client`."""
    wanted = families(service)
    prefer = service.ip_family_policy == "PreferDualStack" and len(wanted) > 1
    return Wish(
        key=service.key,
        client=Client(service.namespace, namespace_labels, service.labels),
        families=wanted,
        optional=frozenset(wanted) if prefer else frozenset(),
        ports=tuple(dict.fromkeys(service.ports)),
        keys=(annotation(service, SHARE), backend_key(service)),
        requested=requested(service),
        pool=annotation(service, POOL),
    )
