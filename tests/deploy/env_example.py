"""deploy/.env.example, made from the settings: `python -m tests.deploy.env_example --write`, or `make env`."""

import sys
from pathlib import Path

from service.settings import env_example

FILE = Path(__file__).parents[2] / "deploy" / ".env.example"
HEAD = """\
# Callsheet's settings, each at its default. Made from service/settings.py by `make env`.
# `callsheet init` writes a .env with an admin key and master keys made for it.

# Only deploy/compose.yaml reads this one: letters and digits, as it becomes part of a URL. [text]
#POSTGRES_PASSWORD=

"""


def made() -> str:
    """What the file should say."""
    return HEAD + env_example()


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(made(), encoding="utf-8")
    else:
        print(made(), end="")
