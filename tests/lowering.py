"""Lowered programs, read: which of their products are not to float32's precision on the platform they are for."""

import re

_DEFINED = re.compile(r"^\s*(%\w+)(?::\d+)? = (?:\"?)([\w.]+)")
_OPERANDS = re.compile(r"%\w+")


def inexact(program: str, platform: str) -> list[str]:
    """The products that are not exact there, each as its line.

    On a TPU and elsewhere exact is what asks for the precision HIGHEST. On a GPU it is what multiplies short operands:
    those that have been rounded, or are slices of such.
    """
    short: set[str] = set()
    found = []
    for line in program.splitlines():
        defined = _DEFINED.match(line)
        if not defined:
            continue
        name, operation = defined.groups()
        operands = _OPERANDS.findall(line.partition("=")[2])
        if operation in ("stablehlo.dot_general", "stablehlo.convolution"):
            exact = (
                short >= set(operands)
                if platform == "cuda"
                else "[HIGHEST, HIGHEST]" in line or "HIGHEST>, #stablehlo<precision HIGHEST>" in line
            )
            found += [] if exact else [line.strip()]
        rounded = operation == "stablehlo.reduce_precision" or (
            operation == "stablehlo.slice" and set(operands) <= short
        )
        (short.add if rounded else short.discard)(name)
    return found
