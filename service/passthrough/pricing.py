"""What a passthrough submit may cost, by its provider's price table: the highest price if the body reads in two ways.

A job of POST /v1/jobs was checked, and is sent as it was read. Here the provider reads the caller's own bytes, and if
it might read them otherwise than we do, a budget must not be passed by that.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from service.facts import Cost
from service.providers import Operation


def highest(operation: Operation) -> Cost | None:
    """Of all rows of the operation's table; None where it has none."""
    table = operation.cost or {}
    amounts = [Decimal(str(row["amount"])) for row in table.get("known", ())]
    return Cost(amount=f"{max(amounts):f}", unit=table["unit"], source="quoted") if amounts else None


def reads_one_way(operation: Operation, headers: Mapping[str, str], body: object) -> bool:
    """Whether every reader takes these bytes for the same input, as far as the price goes.

    One JSON object in UTF-8 that says it is JSON, in no coding, without a byte order mark and without names that are
    there twice; of the fields that decide the price, none in other letters, and none as a text where the table has a
    number. `headers` by lower-case name.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    coded = headers.get("content-encoding", "identity").strip().lower() not in ("identity", "")
    if coded or not (kind == "application/json" or kind.endswith("+json")) or not isinstance(body, bytes):
        return False
    try:
        given = json.loads(body.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return False
    return isinstance(given, dict) and all(_plainly(given, field, kinds) for field, kinds in _fields(operation).items())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name.lower() for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _fields(operation: Operation) -> dict[str, set[type]]:
    """Those that decide the price, with the kinds of their values."""
    fields: dict[str, set[type]] = {}
    for row in (operation.cost or {}).get("known", ()):
        for field, value in row["when"].items():
            fields.setdefault(field, set()).add(type(value))
    return fields


def _plainly(given: Mapping[str, Any], field: str, kinds: set[type]) -> bool:
    if field not in given:
        return not any(name.lower() == field.lower() for name in given)
    numbers = kinds <= {int, float}
    value = given[field]
    return not numbers or (isinstance(value, int | float) and not isinstance(value, bool))
