"""The operation table of `service/providers/README.md`, made from the code.

`python -m tests.providers.operation_table` prints it, `--write` puts it into the README.
"""

import sys
from pathlib import Path
from urllib.parse import unquote

from service import providers
from service.providers import Operation, Provider, Reply

from .cases import a_call, drive, example_call, file_rules, overrides

README = Path(providers.__file__).with_name("README.md")
BEGIN = "<!-- operations: begin (generated from the tables; do not edit) -->"
END = "<!-- operations: end -->"
COLUMNS = ("provider", "operation", "submit", "status", "callback", "cancel", "unknown settled by", "quote", "files")
SETTLED = {
    "same_key": "the same key again, then look-up",
    "lookup": "look-up",
    "token": "its callback",
    "person": "a person",
}
ID = "OF-THE-JOB"
NONE = "-"


def table(names: list[str]) -> str:
    """The table for these providers, as Markdown."""
    known = [providers.load(name) for name in names]
    rows = [cells(provider, row) for provider in known for row in provider.operations.values()]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(provider: Provider, row: Operation) -> tuple[str, ...]:
    return (
        provider.name,
        f"`{row.name}`",
        f"`{row.method} {row.path}`",
        "the reply is the result" if row.immediate else asked(provider, row, "status"),
        called_back(provider, row),
        asked(provider, row, "cancel") if row.cancel else NONE,
        settled(provider, row),
        row.quote or NONE,
        files(row),
    )


def asked(provider: Provider, row: Operation, verb: str) -> str:
    """The first request of the verb."""
    call = a_call(provider, {**example_call(provider.name, row.name), "operation": row.name})
    steps = getattr(provider, verb)(call, ID)
    _, requests = drive(steps, lambda _: Reply(status=500, headers={}, body=b""))
    path = unquote(requests[0].url.removeprefix(call.base_url)).replace(ID, "{id}")
    return f"`{requests[0].method} {path}`"


def called_back(provider: Provider, row: Operation) -> str:
    if not row.callback:
        return "polled"
    signed = "signed" if provider.callback_signed else "a hint"
    return f"{signed}, {'one URL per account' if provider.callback_per_account else 'a URL per job'}"


def settled(provider: Provider, row: Operation) -> str:
    """`token` and a look-up together where the provider has both."""
    if row.settled_by == "token" and overrides(provider, "lookup"):
        return f"{SETTLED['token']}, or look-up"
    return SETTLED[row.settled_by]


def files(row: Operation) -> str:
    how = {"upload": "uploaded there", "url": "offered by URL", "part": "in the submit"}
    found = sorted({how[rule["how"]] for rule in file_rules(row.input_schema)})
    return ", ".join(found) or NONE


def between_markers(text: str) -> str:
    """What stands in the README now."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def written(text: str, made: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    made = table(providers.names())
    if sys.argv[1:] == ["--write"]:
        README.write_text(written(README.read_text(encoding="utf-8"), made), encoding="utf-8")
    else:
        print(made)
