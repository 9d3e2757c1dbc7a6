"""The sandbox: each provider as a real HTTP server, with a ledger of what was charged, and faults on request.

    /{provider}/...        the provider's own API, as its documents describe it
    /_sandbox/{provider}/  what no provider has: account, ledger, faults, callbacks, reset

Shared mechanism: `provider.py` (one submit, from refusal to reply), `faults.py`, `accounts.py`, `jobs.py`,
`callbacks.py`. One file per provider gives its routes, envelopes, errors and prices. Nothing here is imported from
the service, so that a mistake of the service cannot hide in both.
"""

from service.sandbox.app import create_app, run

__all__ = ["create_app", "run"]
