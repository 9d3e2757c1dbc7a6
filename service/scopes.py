"""What a key may do: every scope, in the words that `callsheet keys create --help` shows."""

SCOPES = {
    "jobs:write": "submit, cancel and settle jobs, upload files",
    "jobs:read": "read jobs, their timelines and files",
    "events:read": "read events and deliveries",
    "endpoints:read": "read endpoints",
    "endpoints:write": "make, change and test endpoints, send deliveries again",
    "secrets:read": "show the callback secret, which signs what goes to a job's callback_url",
    "secrets:write": "rotate the callback secret, and show it",
    "providers:read": "see providers, quotes and balances",
    "credentials:write": "give the tenant its own keys for providers, end a pause",
    "passthrough": "call a provider's own API through here",
    "passthrough:account": "that, for account, key and billing paths too",
    "metrics": "read /metrics",
    "tick": "call POST /internal/tick",
    "admin": "everything, in every tenant",
}
DEFAULT_SCOPES = ("jobs:write", "jobs:read", "events:read", "endpoints:read", "endpoints:write", "providers:read")
IMPLIED = {"secrets:write": "secrets:read"}  # who may change it may see it


def granted(scopes: tuple[str, ...]) -> frozenset[str]:
    """What a key with these scopes may do."""
    if "admin" in scopes:
        return frozenset(SCOPES)
    return frozenset(scopes) | {IMPLIED[scope] for scope in scopes if scope in IMPLIED}
