"""Configurations with a password where it belongs and where it does not, in every wrong shape that people write."""

from __future__ import annotations

SECRET = "hunter2"
#: As it stands in the documents: what YAML makes of it is long, or begins in a special way, too.
_HEAD = "peers:\n- my-asn: 64512\n  peer-asn: 64513\n  peer-address: 192.0.2.1\n"

#: Lines of a peer.
_LINES = (
    f"password: {SECRET}",
    f"password: [{SECRET}]",
    f"password: {{{SECRET}: {SECRET}}}",
    f"password: {{{SECRET}: 1, {SECRET}: 2}}",
    f"password: [[{SECRET}, {{a: {SECRET}}}]]",
    f"password: !{SECRET} x",
    f"password: !vault {SECRET}",
    f"password: !{SECRET}",
    f"password: *{SECRET}",
    f"password: [*{SECRET}]",
    f"password: {SECRET}: x",
    f"password: @{SECRET}",
    f"password: %{SECRET}",
    f"password: '{SECRET}",
    f'password: "{SECRET}\\q"',
    f"password: {SECRET * 20}",
    f"password: {SECRET}\n  password: {SECRET}x",
    f"password: {SECRET}\n  password-secret: {{name: a}}",
    f"password:{SECRET}",
    f"password {SECRET}",
    f"password={SECRET}",
    f"password:\n{SECRET}",
    f"password-secret: {SECRET}",
    f"password-secret: [{SECRET}]",
    f"password-secret: {{{SECRET}: x}}",
    f"password-secret: {{{SECRET}: x, {SECRET}: y}}",
    f"password-secret: {{name: [{SECRET}]}}",
    f"password-secret: {{name: {{{SECRET}: {SECRET}}}}}",
    f"password-secret: {{name: a, key: [{SECRET}]}}",
    f"password-secret: {{name: a, key: {{{SECRET}: x}}}}",
    f"password-secret: {{name: !{SECRET} x}}",
    f"password-secret: !{SECRET}",
    f"password-secret: *{SECRET}",
    f"Password: {SECRET}",
    f"passwd: {SECRET}",
    f"passwordSecret: {SECRET}",
    f"passwordSecret: {{name: a, name: {SECRET}}}",
    f"bgp-password: [{SECRET}]",
    f"source-address: x\n  password: {SECRET}",
    f"peer-port: 'password={SECRET}'",
    f"router-id: 'x password {SECRET}'",
    f"hold-time: '90s password:{SECRET}'",
    f"bfd-profile: 'password {SECRET}'",
    f"keepalive-time: '1 password {SECRET}'",
    f"connect-time: 'password\\n{SECRET}'",
    f"peer-asn: 'password {SECRET}'\n  name: x",
    f"node-selectors: 'password: {SECRET}'",
    f"node-selectors: [{{match-labels: {{'password {SECRET}': [1]}}}}]",
)
#: Whole documents.
_DOCUMENTS = (
    f"peers: [{{my-asn: 1, peer-asn: 2, peer-address: 192.0.2.1, password:{SECRET}}}]\n",
    f"peers: [{{my-asn: 1, password {SECRET}}}]\n",
    f"peers: ['password: {SECRET}']\n",
    f"peers:\n- |\n  my-asn: 64512\n  password: {SECRET}\n",
    f'peers: \'[{{"password": "{SECRET}"}}]\'\n',
    f"'password: {SECRET}'\n",
    f"password: {SECRET}\n",
    f"password: {SECRET}\npassword: {SECRET}\n",
    f"address-pools: [{{name: a, protocol: 'password {SECRET}', addresses: ['password={SECRET}']}}]\n",
    f"bfd-profiles: [{{name: 'password {SECRET}'}}, {{name: 'password {SECRET}'}}]\n",
    f"bgp-communities: {{'password {SECRET}': 'password {SECRET}'}}\n",
)

#: By a short name.
SHAPES = {line.replace(SECRET, "X")[:60]: f"{_HEAD}  {line}\n" for line in _LINES} | {
    text.replace(SECRET, "X")[:60]: text for text in _DOCUMENTS
}
