"""`metallb-config`: judge configurations before they reach a cluster, and convert newer ones.

Exit status: 0 clean or warnings only, 1 errors (convert: something could not be expressed),
2 a file could not be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from metallb_common.config import manifests
from metallb_common.config.errors import ConfigError
from metallb_common.config.files import ERRORS, OK, UNREADABLE, read
from metallb_common.config.normal import normalise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit status is returned."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "convert":
            from metallb_common.config.convert import run  # its own imports are not needed for check

            return run(options.files)
        return check(options.files, options.json)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has seen enough; the interpreter would complain at its end
        return ERRORS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metallb-config", description="Judge configurations of the load balancer, and convert newer ones."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser(
        "check",
        help="judge configurations",
        description="Judge configurations: bare documents, ConfigMaps, Helm values, Flux HelmReleases, Argo CD "
        "Applications, and Lists of these. Exit status: 0 clean or warnings only, 1 errors, 2 could not read.",
    )
    checking.add_argument("files", nargs="+", metavar="FILE", help="file to judge; - for standard input")
    checking.add_argument("--json", action="store_true", help="print one JSON array, an object for each document")
    converting = commands.add_parser(
        "convert",
        help="make a configuration of the custom resources of MetalLB 0.13 and later",
        description="Print the configuration that says what IPAddressPool, L2Advertisement, BGPAdvertisement, BGPPeer, "
        "BFDProfile, Community and AddressPool objects say. Exit status: 0 all expressed, 1 not all, 2 could not read.",
    )
    converting.add_argument("files", nargs="+", metavar="FILE", help="file with objects; - for standard input")
    return parser


def check(files: Iterable[str], as_json: bool) -> int:
    """Judge files, print what was found, and give the exit status."""
    status = OK
    records: list[dict[str, Any]] = []
    for name in files:
        try:
            content = read(name)
        except OSError as error:
            status = UNREADABLE
            reason = f"could not read: {error.strerror}"
            print(f"{name}: {reason}", file=sys.stderr)
            records.append(_record(name, 0, manifests.UNKNOWN, (ConfigError("", 0, 0, reason),), (), None))
            continue
        for found in manifests.find(content):
            parsed = found.parsed
            if parsed is None:
                if as_json:
                    note = ConfigError("", found.line, 0, found.note)
                    records.append(_record(name, found.number, found.kind, (), (note,), None))
                else:
                    print(f"{name}:{found.line}: {found.note}", file=sys.stderr)
                continue
            if parsed.errors:
                status = max(status, ERRORS)
            if as_json:
                config = normalise(parsed.config) if parsed.config is not None else None
                records.append(_record(name, found.number, found.kind, parsed.errors, parsed.warnings, config))
            else:
                _print(name, parsed.errors, "")
                _print(name, parsed.warnings, "warning: ")
    if as_json:
        json.dump(records, sys.stdout, indent=2, ensure_ascii=False)
        print()
    return status


def _print(name: str, found: Iterable[ConfigError], word: str) -> None:
    for error in found:
        where = f"{name}:{error.line}: " if error.line else f"{name}: "
        path = f"{error.path}: " if error.path else ""
        fix = f" ({error.fix})" if error.fix else ""
        print(f"{where}{path}{word}{error.reason}{fix}")


def _record(
    name: str,
    number: int,
    kind: str,
    errors: tuple[ConfigError, ...],
    warnings: tuple[ConfigError, ...],
    config: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "file": name,
        "document": number,
        "kind": kind,
        "valid": not errors,
        "errors": [_finding(e) for e in errors],
        "warnings": [_finding(e) for e in warnings],
        "config": config,
    }


def _finding(error: ConfigError) -> dict[str, Any]:
    return {"line": error.line, "path": error.path, "reason": error.reason, "fix": error.fix}


if __name__ == "__main__":
    sys.exit(main())
