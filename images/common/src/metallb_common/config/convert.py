"""The custom resources of MetalLB 0.13 and later -> our document, and what it cannot express.

There, pools and the ways to announce them are objects of their own, joined by names and labels;
here a pool holds its advertisements and has one protocol.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import yaml

from metallb_common.config.compose import Mapping, Node, Scalar, Sequence, compose
from metallb_common.config.errors import hushed
from metallb_common.config.files import ERRORS, OK, UNREADABLE, read
from metallb_common.config.parse import parse
from metallb_common.config.scalars import STR_TAG, as_bool, as_number, is_null
from metallb_common.net.selectors import LabelSelector, Requirement

Json = dict[str, Any]

_GROUP = "metallb.io/"
_KINDS = ("IPAddressPool", "AddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer", "BFDProfile", "Community")


def run(files: Iterable[str]) -> int:
    """Convert files; the document goes to standard output, remarks to standard error."""
    objects: list[Json] = []
    refused = False
    for name in files:
        try:
            documents, failure = compose(read(name))
        except OSError as error:
            print(f"{name}: could not read: {error.strerror}", file=sys.stderr)
            return UNREADABLE
        if failure is not None:
            print(f"{name}:{failure.line}: {failure.reason}", file=sys.stderr)
            return ERRORS
        for document in documents:
            for wrong in document.errors:  # which of the two was meant is not for us to say
                print(f"{name}:{wrong.line}: {wrong.path}: {wrong.reason} ({wrong.fix})", file=sys.stderr)
            refused |= bool(document.errors)
            for found in _flat(plain(document.root)):
                if found.get("kind") in _KINDS and str(found.get("apiVersion", "")).startswith(_GROUP):
                    objects.append(found)
                else:
                    print(f"{name}: skipped: {found.get('kind', 'a document without kind')}", file=sys.stderr)
    try:
        document_out, notes = convert(objects)
    except (AttributeError, LookupError, TypeError) as error:
        print(f"an object is not what the API server would accept: {error!r}", file=sys.stderr)
        return ERRORS
    text = yaml.safe_dump(document_out, sort_keys=False, allow_unicode=True, width=120)
    sys.stdout.write(text)
    for note in notes:
        print(f"not expressed: {note}", file=sys.stderr)
    for wrong in parse(text).errors:
        print(f"the result is refused: {wrong}", file=sys.stderr)
        refused = True
    return ERRORS if notes or refused else OK


def plain(node: Node | None) -> Any:
    """A node as Python data."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, (_, value) in node.items.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    if not isinstance(node, Scalar) or is_null(node):
        return None
    if node.tag == STR_TAG:
        return node.value
    for read_as in (as_bool, as_number):
        value = read_as(node)
        if value is not None:
            return value
    return node.value


def _flat(value: Any) -> list[Json]:
    """The objects of one document; a List's items each for themselves."""
    if not isinstance(value, dict):
        return []
    if str(value.get("kind", "")).endswith("List"):
        return [found for item in value.get("items") or [] for found in _flat(item)]
    return [value]


def convert(objects: Iterable[Json]) -> tuple[Json, list[str]]:
    """The document of these objects, and what it does not say. Objects are in the API's form."""
    return _Converter(objects).run()


class _Converter:
    def __init__(self, objects: Iterable[Json]) -> None:
        self.notes: list[str] = []
        self.by_kind: dict[str, list[Json]] = {kind: [] for kind in _KINDS}
        for found in objects:
            self.by_kind[found["kind"]].append(found)

    def note(self, found: Json, text: str) -> None:
        self.notes.append(f"{found['kind']} {_name(found)}: {text}")

    def run(self) -> tuple[Json, list[str]]:
        out: Json = {}
        pools = [*map(self.pool, self.by_kind["IPAddressPool"]), *map(self.old_pool, self.by_kind["AddressPool"])]
        sections: list[tuple[str, list[Json] | Json]] = [
            ("address-pools", pools),
            ("peers", [self.peer(p) for p in self.by_kind["BGPPeer"]]),
            ("bgp-communities", self.communities()),
            ("bfd-profiles", [self.bfd(p) for p in self.by_kind["BFDProfile"]]),
        ]
        for key, value in sections:
            if value:
                out[key] = value
        return out, self.notes

    # --- pools -----------------------------------------------------------------------------------

    def pool(self, found: Json) -> Json:
        spec = self.spec(found, "addresses autoAssign avoidBuggyIPs serviceAllocation")
        layer2 = [a for a in self.by_kind["L2Advertisement"] if _selects(a, found)]
        bgp = [a for a in self.by_kind["BGPAdvertisement"] if _selects(a, found)]
        if layer2 and bgp:
            self.note(found, "it is announced by layer 2 and by BGP; a pool here has one protocol: bgp is written")
        elif not layer2 and not bgp:
            self.note(found, "nothing announces it; a pool here always is announced: layer2 is written")
        out = {"name": _name(found), "protocol": "bgp" if bgp else "layer2", "addresses": spec.get("addresses") or []}
        _copy(spec, out, autoAssign="auto-assign", avoidBuggyIPs="avoid-buggy-ips")
        allocation = spec.get("serviceAllocation")
        if allocation:
            inner: Json = {}
            _copy(allocation, inner, priority="priority", namespaces="namespaces")
            _selectors(
                allocation, inner, namespaceSelectors="namespace-selectors", serviceSelectors="service-selectors"
            )
            out["service-allocation"] = inner
        advertisements: list[Json] = []
        for advertisement in (self.bgp(a) for a in bgp) if bgp else (self.layer2(a) for a in layer2):
            if advertisement not in advertisements:
                advertisements.append(advertisement)
        if any(advertisements):  # one without any condition is the default
            out["bgp-advertisements" if bgp else "l2-advertisements"] = advertisements
        return out

    def old_pool(self, found: Json) -> Json:
        spec = self.spec(found, "protocol addresses autoAssign avoidBuggyIPs bgpAdvertisements")
        out = {"name": _name(found), "protocol": spec.get("protocol"), "addresses": spec.get("addresses") or []}
        _copy(spec, out, autoAssign="auto-assign", avoidBuggyIPs="avoid-buggy-ips")
        advertisements = [_routes(a) for a in spec.get("bgpAdvertisements") or []]
        if any(advertisements):
            out["bgp-advertisements"] = advertisements
        return out

    def layer2(self, found: Json) -> Json:
        spec = self.spec(found, "ipAddressPools ipAddressPoolSelectors nodeSelectors interfaces serviceSelectors")
        out: Json = {}
        _selectors(spec, out, nodeSelectors="node-selectors", serviceSelectors="service-selectors")
        _copy(spec, out, interfaces="interfaces")
        return out

    def bgp(self, found: Json) -> Json:
        spec = self.spec(
            found,
            "aggregationLength aggregationLengthV6 localPref communities ipAddressPools ipAddressPoolSelectors "
            "nodeSelectors peers serviceSelectors",
        )
        out = _routes(spec)
        _copy(spec, out, peers="peers")
        _selectors(spec, out, nodeSelectors="node-selectors", serviceSelectors="service-selectors")
        return out

    # --- peers -----------------------------------------------------------------------------------

    def peer(self, found: Json) -> Json:
        spec = self.spec(
            found,
            "myASN peerASN dynamicASN peerAddress peerPort sourceAddress holdTime keepaliveTime connectTime routerID "
            "password passwordSecret bfdProfile ebgpMultiHop nodeSelectors enableGracefulRestart localASN disableMP "
            "dualStackAddressFamily",
        )
        out: Json = {"name": _name(found), "my-asn": spec.get("myASN")}
        out["peer-asn"] = spec.get("dynamicASN") or spec.get("peerASN")
        out["peer-address"] = spec.get("peerAddress")
        _copy(
            spec,
            out,
            peerPort="peer-port",
            sourceAddress="source-address",
            holdTime="hold-time",
            keepaliveTime="keepalive-time",
            connectTime="connect-time",
            routerID="router-id",
            password="password",
            bfdProfile="bfd-profile",
            ebgpMultiHop="ebgp-multihop",
            enableGracefulRestart="graceful-restart",
            localASN="local-asn",
        )
        secret = spec.get("passwordSecret") or {}
        if secret.get("name"):
            out["password-secret"] = {"name": secret["name"], "key": "password"}
            namespace = (found.get("metadata") or {}).get("namespace")
            if secret.get("namespace") and namespace and secret["namespace"] != namespace:
                self.note(found, f"the Secret is in namespace {secret['namespace']}; here it must be in our own")
        if spec.get("disableMP"):
            out["address-families"] = ["ipv6" if ":" in str(spec.get("peerAddress")) else "ipv4"]
        _selectors(spec, out, nodeSelectors="node-selectors")
        return out

    def bfd(self, found: Json) -> Json:
        spec = self.spec(
            found, "receiveInterval transmitInterval detectMultiplier echoInterval echoMode passiveMode minimumTtl"
        )
        out: Json = {"name": _name(found)}
        _copy(
            spec,
            out,
            receiveInterval="receive-interval",
            transmitInterval="transmit-interval",
            detectMultiplier="detect-multiplier",
            echoInterval="echo-interval",
            echoMode="echo-mode",
            passiveMode="passive-mode",
            minimumTtl="minimum-ttl",
        )
        return out

    def communities(self) -> Json:
        out: Json = {}
        for found in self.by_kind["Community"]:
            for alias in self.spec(found, "communities").get("communities") or []:
                if out.get(alias["name"], alias["value"]) != alias["value"]:
                    self.note(found, f"the name {alias['name']} has another value already: {out[alias['name']]}")
                    continue
                out[alias["name"]] = alias["value"]
        return out

    def spec(self, found: Json, known: str) -> Json:
        """The object's spec; fields that are not known here are named once."""
        spec: Json = found.get("spec") or {}
        for field in spec:
            if field not in known.split() and spec[field] not in (None, "", [], {}, False):
                text = f"spec.{hushed(field)} has no counterpart here"
                if f"{found['kind']} {_name(found)}: {text}" not in self.notes:
                    self.note(found, text)
        return spec


def _name(found: Json) -> str:
    return str((found.get("metadata") or {}).get("name", ""))


def _copy(source: Json, target: Json, **names: str) -> None:
    """Copy what is set, under its name here."""
    for theirs, ours in names.items():
        value = source.get(theirs)
        if value is not None and value != "" and value != []:
            target[ours] = value


def _routes(spec: Json) -> Json:
    out: Json = {}
    _copy(
        spec,
        out,
        aggregationLength="aggregation-length",
        aggregationLengthV6="aggregation-length-v6",
        localPref="localpref",
        communities="communities",
    )
    return out


def _selectors(source: Json, target: Json, **names: str) -> None:
    for theirs, ours in names.items():
        if source.get(theirs):
            target[ours] = [_selector(s) for s in source[theirs]]


def _selector(raw: Json) -> Json:
    out: Json = {}
    _copy(raw, out, matchLabels="match-labels", matchExpressions="match-expressions")
    return out


def _selects(advertisement: Json, pool: Json) -> bool:
    """By name or by label; one that says neither means every pool."""
    spec = advertisement.get("spec") or {}
    names, selectors = spec.get("ipAddressPools") or [], spec.get("ipAddressPoolSelectors") or []
    if not names and not selectors:
        return True
    labels = (pool.get("metadata") or {}).get("labels") or {}
    return _name(pool) in names or any(_label_selector(s).matches(labels) for s in selectors)


def _label_selector(raw: Json) -> LabelSelector:
    requirements = [Requirement(k, "In", (str(v),)) for k, v in (raw.get("matchLabels") or {}).items()]
    for item in raw.get("matchExpressions") or []:
        requirements.append(Requirement(item["key"], item["operator"], tuple(map(str, item.get("values") or ()))))
    return LabelSelector(tuple(requirements))
