"""The seams: what may import what, and what may stand at the top level."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "service"

# Imports go one way: a module imports its own layer's listed friends and any layer above it in this list.
LAYERS: list[set[str]] = [
    {"errors", "clock", "ids", "states", "scopes"},
    {"facts"},
    {"models"},
    {
        "header_lines",
        "masking",
        "signatures",
        "retries",
        "addresses",
        "dialing",
        "framing",
        "reply_reader",
        "hearing",
        "codings",
        "streams",
        "exchange",
        "media",
        "ranges",
        "once",
        "crypto",
        "own_requests",
        "limits",
        "in_flight",
        "knobs",
        "settings",
        "spending",
        "views",
        "filters",
        "idempotency",
        "metrics",
    },
    {"egress", "sealed", "providers", "stores", "loops"},
    {"fleet", "told"},
    {
        "outcomes",
        "rules_submit",
        "rules_follow",
        "transitions",
        "accounts",
        "credentials",
        "endpoints",
        "lanes",
        "recording",
        "callback_urls",
        "conversation",
    },
    {"calling", "gates", "callback_keys", "account_facts"},
    {"pausing", "files", "links", "fetching", "outputs"},
    {
        "accepting",
        "offers",
        "submission",
        "callbacks",
        "polling",
        "delivery",
        "pruning",
        "restoring",
        "waiting",
        "readiness",
        "passthrough",
        "reconciling",
        "adopting",
    },
    {"web"},
    {"wiring"},
    {"app"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FORBIDDEN = {  # beyond the order of the layers
    "stores": {
        "providers",
        "egress",
        "sealed",
        "loops",
        "signatures",
        "retries",
        "addresses",
        "dialing",
        "crypto",
        "settings",
    },
    "sandbox": set(LEVEL),
}
STARLETTE = {"web", "app", "cli", "sandbox"}  # stages never see it
TOP = {"pyproject.toml", "README.md", "service", "tests", "deploy", "Makefile", "CHANGELOG.md", "LICENSE"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """The seam that a file belongs to: `stores` for service/stores/sqlite.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def seams(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imported(path) if name.startswith("service.")}
    return {name for name in names if name in LEVEL or (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()}


def test_every_module_has_a_layer() -> None:
    unknown = {part(path) for path in modules()} - set(LEVEL) - {"sandbox", "__init__"}
    assert not unknown


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = part(path)
    used = seams(path) - {own, "sandbox" if own == "cli" else own}
    assert not used & FORBIDDEN.get(own, set())
    if own in LEVEL:
        later = {name for name in used if LEVEL.get(name, 99) > LEVEL[own]}
        assert not later, f"{own} imports {later}, which come after it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_edge_knows_starlette(path: Path) -> None:
    if part(path) not in STARLETTE:
        assert not {name for name in imported(path) if name.split(".")[0] in ("starlette", "uvicorn")}


@pytest.mark.parametrize("path", sorted((PACKAGE / "providers").glob("*.py")), ids=lambda path: path.stem)
def test_providers_never_import_each_other_and_do_no_io(path: Path) -> None:
    names = imported(path)
    others = {f"service.providers.{other.stem}" for other in (PACKAGE / "providers").glob("[a-z]*.py")}
    assert not names & (others - {f"service.providers.{path.stem}"})
    assert not {name.split(".")[0] for name in names} & {
        "socket",
        "aiohttp",
        "httpx2",
        "asyncio",
        "urllib3",
        "requests",
    }


def test_nothing_stands_at_the_top_level_unasked() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {name.split("/")[0] for name in listed}
    assert {name for name in top if not name.startswith(".")} <= TOP


def test_no_module_is_named_for_nothing() -> None:
    names = {path.stem for path in modules()}
    assert not names & {"utils", "helpers", "base", "manager", "handler", "common", "misc"}
