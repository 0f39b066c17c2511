#!/usr/bin/env python3
"""Fails if a dependency's licence offers no permissive choice. Reads `cargo metadata` on standard input."""

import json
import re
import sys

PERMISSIVE = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
    "CC0-1.0", "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib",
}


def permissive(expression: str) -> bool:
    """Whether an SPDX expression can be met by permissive licences alone: every AND part has a permissive OR choice."""
    expression = expression.replace("/", " OR ")
    tokens = re.findall(r"\(|\)|AND|OR|[^\s()]+(?:\s+WITH\s+[^\s()]+)?", expression)

    def choices() -> bool:
        value = all_of()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value = all_of() or value
        return value

    def all_of() -> bool:
        value = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value = one() and value
        return value

    def one() -> bool:
        token = tokens.pop(0)
        if token == "(":
            value = choices()
            tokens.pop(0)
            return value
        return " ".join(token.split()) in PERMISSIVE

    return choices() and not tokens


packages = json.load(sys.stdin)["packages"]
refused = [f"{p['name']} {p['version']}: {p['license']}" for p in packages if not p["license"] or not permissive(p["license"])]
print(f"licences: {len(packages)} packages, {len(refused)} refused")
if refused:
    sys.exit("not permissive:\n" + "\n".join(refused))
